//! A hostile peer, and a judge who lets it loose on a node among honest ones.
//!
//! One program with two jobs, because it is the same list of scenarios that one does and the other judges: as
//! `hostile peer --ticket-file F SCENARIO...` it is the peer (see `peer`), else the test (see `judge`). It is built with the
//! tests and installed by nothing.
//!
//! `cargo test -p p2p-node --test hostile -- flood` tries the scenarios whose names hold `flood`; `--list` names all.
//! An ordinary run judges everything but the rates of honest transfers, which it prints; `P2P_HOSTILE_SECONDS=1` judges these
//! too, on a machine that has nothing else to do, and lets each attack go on for so long at least.

mod judge;
mod peer;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if_eq("peer").is_some() {
        peer::run(arguments);
        return ExitCode::SUCCESS;
    }
    judge::run(arguments)
}
