//! What figures were taken on: without it they say nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// A machine as far as it matters here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// The processor's name.
    pub cpu: String,
    /// The kernel's name and release.
    pub kernel: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Type of the file system that is measured on.
    pub filesystem: String,
}

impl Machine {
    /// This one, with the file system of a folder.
    pub(crate) fn here(dir: &Path) -> Self {
        let uname = rustix::system::uname();
        let field = |file, name| field(&fs::read_to_string(file).unwrap_or_default(), name).unwrap_or_default();
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: u64 = memory.trim_end_matches("kB").trim().parse().unwrap_or(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field("/proc/cpuinfo", "model name"),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            memory: kib << 10,
            filesystem: filesystem(&mounts, &dir).unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    /// The same on one line.
    pub(crate) fn text(&self) -> String {
        let Self { cores, cpu, kernel, memory, filesystem } = self;
        let gib = *memory as f64 / f64::from(1 << 30);
        format!("{cores} cores, {cpu}, {kernel}, {gib:.1} GiB, {filesystem}")
    }
}

/// How many processes wanted to run in the last minute: what else the machine did.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

/// The commit that the current folder stands at, marked where something was changed since.
pub(crate) fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]);
    output(git).unwrap_or_else(|| "unknown".to_owned())
}

/// Today, in UTC.
pub(crate) fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The date so many days after 1 January 1970 (Hinnant, "chrono-compatible low-level date algorithms"): years are counted
/// from March on, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn output(mut command: Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The value of the first `NAME : VALUE`.
fn field(text: &str, name: &str) -> Option<String> {
    let of_line = |line: &str| Some(line.split_once(':').filter(|(key, _)| key.trim() == name)?.1.trim().to_owned());
    text.lines().find_map(of_line)
}

/// The type of the file system with the longest mount point above the folder.
fn filesystem(mounts: &str, dir: &Path) -> Option<String> {
    let mount = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?.to_owned();
        dir.starts_with(&point).then(|| (point.len(), kind.split(' ').next().unwrap_or_default().to_owned()))
    };
    // Of two on the same point the later one is on top.
    mounts.lines().filter_map(mount).max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_777, (2026, 11, 20))] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "21 1 8:1 / / rw - ext4 /dev/sda rw\n30 21 0:9 / /tmp rw,nosuid - tmpfs tmpfs rw\n\
            31 21 0:9 / /tmp/in rw - xfs /dev/sdb rw\n";
        for (dir, kind) in [("/home/x", "ext4"), ("/tmp/x", "tmpfs"), ("/tmp/in/x", "xfs"), ("/tmpfile", "ext4")] {
            assert_eq!(filesystem(mounts, Path::new(dir)).as_deref(), Some(kind), "{dir}");
        }
        assert_eq!(filesystem("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::here(&std::env::temp_dir());
        assert!(machine.cores > 0 && machine.memory > 0 && machine.filesystem != "unknown", "{machine:?}");
        assert!(load() >= 0.0);
    }
}
