//! A part of a long file: how much of it moves.

use p2p_api::{Code, Problem};

use super::Bench;
use crate::Result;
use crate::bench::table::{Target, Unit, judge};
use crate::http::Connection;
use crate::workload::{Dice, content};

/// Length of the file in bytes: it has indexes on two levels.
const FILE_LEN: u64 = 3 << 30;

/// Length of the part in bytes.
const PART_LEN: u64 = 1 << 20;

/// Room on the disk: the file, and the store that has it.
const ROOM: u64 = 2 * FILE_LEN + (1 << 30);

const MOVED: &str = "a range of 1 MiB of a file of 3 GiB moves";

/// Each part is asked of a reader that lacks everything of the file, indexes too.
pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.need_room(ROOM, "a part of a file of 3 GiB")?;
    let source = bench.fresh_file(FILE_LEN)?;
    let name = bench.own.contents;
    let mut net = bench.net(1).await?;
    net.programs.put(&net.home(0), &source.path, source.len).await?;
    let hash = source.hash.clone();
    source.remove()?;
    let reader = net.add().await?;
    let mut dice = Dice::of_part(bench.seed, name);
    for round in 0..bench.own.options.runs {
        net.must_be_empty(reader).await?;
        // The first part begins with a leaf, the others anywhere, most of them across two.
        let start = dice.roll(FILE_LEN - PART_LEN);
        let start = if round == 0 { start / PART_LEN * PART_LEN } else { start };
        let before = net.received(reader).await?;
        let range = format!("range: bytes={start}-{}", start + PART_LEN - 1);
        let mut connection = Connection::open(&net.socket(reader)).await?;
        let path = format!("/v1/content/{hash}?cache=false");
        let body = connection.request("GET", &path, &[&range], b"").await?.success()?;
        let mut expected = vec![0; PART_LEN as usize];
        let mut bytes = content(bench.seed, name);
        bytes.set_position(start);
        bytes.fill(&mut expected);
        if body != expected {
            return Err(Problem::new(Code::Integrity, format!("other bytes came back for those from {start} on")));
        }
        let moved = net.received(reader).await? - before;
        bench.add(MOVED, Unit::Mib, moved as f64 / f64::from(1 << 20));
    }
    net.down().await?;
    bench.judge(judge(MOVED, Unit::Mib, bench.table.samples(MOVED), Target::AtMost(4.0)));
    Ok(())
}
