//! One process: who it is, what it is doing, and signals to it and to nobody else.
//!
//! A pid alone names no process, because the system gives it out again. Together with the start time and the boot it
//! does, so both are kept, and compared before every signal.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use p2p_api::{Code, Problem};
use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::Result;

/// Time between two looks at a process whose state is about to change. The system has no wait for strangers.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Longest wait for a signal that a process cannot refuse to take effect.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);

/// The most that a process can give way to others.
const NICE: i32 = 19;

/// The state of a connection that is open, as `/proc/net/tcp` writes it.
const TCP_ESTABLISHED: &str = "01";

/// One process of one boot of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since the boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// The boot those ticks count from.
    pub boot: String,
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It runs, or would if it had something to do.
    Running,
    /// Held by SIGSTOP.
    Stopped,
    /// It is gone, though its parent may not have noticed yet.
    Exited,
}

impl Condition {
    /// The word used in JSON and in tables.
    pub fn word(self) -> &'static str {
        match self {
            Condition::Running => "running",
            Condition::Stopped => "stopped",
            Condition::Exited => "exited",
        }
    }
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// At this moment.
    pub now: u64,
    /// The most so far.
    pub peak: u64,
    /// What of it no file holds, such as that of the program, which all of its processes share.
    pub own: u64,
}

impl Memory {
    /// Of the process with this pid; None where there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib << 10)
        };
        Some(Self { now: field("VmRSS")?, peak: field("VmHWM")?, own: field("RssAnon")? })
    }
}

impl ProcessId {
    /// The process that has this pid now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, start_ticks: stat.start_ticks, boot: boot_id() })
    }

    /// What the process has spent on all cores so far, user and system; None once it is gone.
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = Stat::read(self.pid).filter(|stat| stat.start_ticks == self.start_ticks)?;
        Some(ticks(stat.own_ticks))
    }

    /// When it started by the wall clock, to a hundredth of a second, rounded down.
    pub fn started_at(&self) -> SystemTime {
        let now = clock_gettime(ClockId::Boottime);
        let since_boot = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32);
        SystemTime::now() - since_boot.saturating_sub(ticks(self.start_ticks))
    }

    /// What the process is doing. A pid that has gone to another process counts as exited.
    pub fn condition(&self) -> Condition {
        match Stat::read(self.pid) {
            Some(stat) if stat.start_ticks == self.start_ticks && self.boot == boot_id() => stat.condition(),
            Some(_) | None => Condition::Exited,
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone, whoever has its pid now, or belongs to another user.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let (Condition::Running | Condition::Stopped, Some(pid)) = (self.condition(), pid) else {
            return Err(Problem::new(Code::Conflict, format!("process {} is gone", self.pid)));
        };
        kill_process(pid, signal)
            .map_err(|error| Problem::new(Code::Other, format!("process {pid} cannot be signalled: {error}")))
    }

    /// Lets all others go first where cores are short: nice 19, for every thread that there is, and those that come of them.
    ///
    /// # Errors
    /// When the process is gone, or belongs to another user.
    pub fn be_nice(&self) -> Result<()> {
        let gone = || Problem::new(Code::Conflict, format!("process {} is gone", self.pid));
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).map_err(|_| gone())?;
        for thread in threads.flatten() {
            let id = thread.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // A thread may have ended since.
            match setpriority_process(id, NICE) {
                Err(error) if thread.path().exists() => {
                    let message = format!("process {} cannot be made nice: {error}", self.pid);
                    return Err(Problem::new(Code::Other, message));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Established TCP connections that the process is an end of; None once it is gone.
    pub fn connections(&self) -> Option<usize> {
        // Fields of a line: number, local, remote, state, queues, timer, retransmits, user, timeout, inode.
        let established = |line: &str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            (*fields.get(3)? == TCP_ESTABLISHED).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        };
        let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{}/net/{name}", self.pid)));
        let inodes: BTreeSet<String> =
            tables.iter().flatten().flat_map(|table| table.lines().filter_map(established)).collect();
        let is_one = |file: fs::DirEntry| {
            let target = fs::read_link(file.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inodes.contains(inode).then_some(())
        };
        Some(fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.flatten().filter_map(is_one).count())
    }

    /// Waits until the process does `wanted`; false when it did not within the limit.
    pub async fn reaches(&self, wanted: Condition, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.condition() != wanted {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_PERIOD).await;
        }
        true
    }

    /// Sends a signal that cannot be refused, and waits until it has taken effect.
    ///
    /// # Errors
    /// When the process is gone, or the system takes longer than ten seconds.
    pub async fn force(&self, signal: Signal, wanted: Condition) -> Result<()> {
        self.signal(signal)?;
        if self.reaches(wanted, SIGNAL_LIMIT).await {
            return Ok(());
        }
        let message = format!("process {} was signalled and is still not {}", self.pid, wanted.word());
        Err(Problem::new(Code::TimedOut, message).hint("Is the disk of its home blocked?"))
    }

    /// Ends the process in order: SIGTERM, and SIGKILL when the limit passes. A stopped one is woken to end itself.
    ///
    /// # Errors
    /// When it cannot be signalled at all.
    pub async fn end(&self, limit: Duration) -> Result<End> {
        match self.condition() {
            Condition::Exited => return Ok(End::AlreadyGone),
            // Pending before it wakes, so that it does nothing else first.
            Condition::Stopped => {
                self.signal_unless_gone(Signal::TERM)?;
                self.signal_unless_gone(Signal::CONT)?;
            }
            Condition::Running => self.signal_unless_gone(Signal::TERM)?,
        }
        if self.reaches(Condition::Exited, limit).await {
            return Ok(End::Clean);
        }
        self.signal_unless_gone(Signal::KILL)?;
        if self.reaches(Condition::Exited, SIGNAL_LIMIT).await {
            return Ok(End::Forced);
        }
        Err(Problem::new(Code::TimedOut, format!("process {} outlives SIGKILL", self.pid))
            .hint("Is the disk of its home blocked?"))
    }

    /// A process may end by itself between a look at it and a signal; that is what was wanted.
    fn signal_unless_gone(&self, signal: Signal) -> Result<()> {
        match self.signal(signal) {
            Err(_) if self.condition() == Condition::Exited => Ok(()),
            result => result,
        }
    }
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was not there.
    AlreadyGone,
    /// It ended after SIGTERM.
    Clean,
    /// It had to be killed.
    Forced,
}

/// What the children of this process have spent on all cores so far, those that have ended and were waited for.
pub fn children_cpu_time() -> Duration {
    ticks(Stat::read(std::process::id()).map_or(0, |stat| stat.children_ticks))
}

fn ticks(count: u64) -> Duration {
    Duration::from_secs_f64(count as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    /// Clock ticks on all cores, user and system.
    own_ticks: u64,
    /// The same of children that were waited for.
    children_ticks: u64,
    threads: u32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is the process's name in parentheses and may hold anything, spaces and parentheses too: what
    /// follows starts after the last one.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Counted from field 3, the state, as proc(5) counts from 1.
        let field = |number: usize| fields.get(number - 3).copied();
        let count = |number| field(number)?.parse::<u64>().ok();
        Some(Self {
            state: field(3)?.chars().next()?,
            own_ticks: count(14)? + count(15)?,
            children_ticks: count(16)? + count(17)?,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
        })
    }

    fn condition(&self) -> Condition {
        match self.state {
            // While other threads are still ending, the process holds its files and locks.
            'Z' | 'X' | 'x' if self.threads <= 1 => Condition::Exited,
            'T' => Condition::Stopped,
            _ => Condition::Running,
        }
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> (Self, ProcessId) {
            let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep is everywhere");
            let id = ProcessId::of(child.id()).expect("it has just been started");
            (Self(child), id)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn line(name: &str, state: char, threads: u32, start: u64) -> String {
        format!("42 ({name}) {state} 1 42 42 0 -1 4194560 1 2 3 4 50 6 70 8 20 0 {threads} 0 {start} 9 9 9")
    }

    #[test]
    fn a_name_with_spaces_and_parentheses_is_read_over() {
        for name in ["p2p-node", "two words", "a) R 1 (b", "((", "))", ""] {
            let stat = Stat::parse(&line(name, 'S', 7, 1234));
            let read = Stat { state: 'S', own_ticks: 56, children_ticks: 78, threads: 7, start_ticks: 1234 };
            assert_eq!(stat, Some(read), "{name:?}");
        }
    }

    #[test]
    fn a_torn_line_is_no_process() {
        let whole = line("p2p-node", 'S', 7, 1234);
        let start = whole.find(" 1234").expect("it is there");
        for len in 0..=start {
            assert_eq!(Stat::parse(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_zombie_is_gone_once_its_last_thread_is() {
        let condition =
            |state, threads| Stat { state, own_ticks: 0, children_ticks: 0, threads, start_ticks: 0 }.condition();
        assert_eq!(condition('Z', 3), Condition::Running);
        assert_eq!(condition('Z', 1), Condition::Exited);
        assert_eq!(condition('T', 3), Condition::Stopped);
        assert_eq!(condition('D', 3), Condition::Running);
    }

    #[tokio::test]
    async fn a_process_is_stopped_woken_and_killed() {
        let (_sleeper, id) = Sleeper::start();
        assert_eq!(id.condition(), Condition::Running);
        id.force(Signal::STOP, Condition::Stopped).await.expect("it is ours");
        id.force(Signal::CONT, Condition::Running).await.expect("it is ours");
        // Nobody has waited for it, so it stays as a zombie: gone all the same.
        id.force(Signal::KILL, Condition::Exited).await.expect("it is ours");
        assert_eq!(id.signal(Signal::TERM).expect_err("it is gone").code, Code::Conflict);
    }

    #[tokio::test]
    async fn a_process_is_made_nice_and_its_start_is_known() {
        let before = SystemTime::now();
        let (_sleeper, id) = Sleeper::start();
        let margin = Duration::from_millis(50);
        assert!(id.started_at() + margin > before && id.started_at() < SystemTime::now() + margin);
        id.be_nice().expect("it is ours");
        let stat = fs::read_to_string(format!("/proc/{}/stat", id.pid)).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        assert_eq!(fields.split_ascii_whitespace().nth(16), Some("19"), "{stat}");
    }

    #[test]
    fn open_connections_are_counted() {
        let own = ProcessId::of(std::process::id()).expect("it runs");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let count = || own.connections().expect("it runs");
        let (before, one) = (count(), std::net::TcpStream::connect(listener.local_addr().expect("bound")));
        let accepted = listener.accept().expect("it connects");
        assert!(count() >= before + 2, "both ends are here");
        drop((one, accepted));
    }

    #[test]
    fn time_on_the_cores_is_counted_for_a_process_and_for_ended_children() {
        let own = ProcessId::of(std::process::id()).expect("it runs");
        let (before, children) = (own.cpu_time().expect("it runs"), children_cpu_time());
        let busy = || own.cpu_time().expect("it runs") < before + Duration::from_millis(20);
        while busy() {}
        let mut shell = Command::new("sh");
        shell.args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]);
        assert!(shell.status().expect("a shell is everywhere").success());
        assert!(children_cpu_time() > children);
    }

    #[tokio::test]
    async fn a_stopped_process_still_ends_cleanly() {
        let (_sleeper, id) = Sleeper::start();
        id.force(Signal::STOP, Condition::Stopped).await.expect("it is ours");
        assert_eq!(id.end(Duration::from_secs(10)).await.expect("it is ours"), End::Clean);
        assert_eq!(id.end(Duration::from_secs(10)).await.expect("nothing to do"), End::AlreadyGone);
    }

    #[tokio::test]
    async fn who_has_a_reused_pid_is_never_signalled() {
        let (mut sleeper, id) = Sleeper::start();
        let earlier = ProcessId { start_ticks: id.start_ticks - 1, ..id.clone() };
        let other_boot = ProcessId { boot: "another".to_owned(), ..id.clone() };
        for stale in [earlier, other_boot] {
            assert_eq!(stale.condition(), Condition::Exited);
            assert!(stale.signal(Signal::KILL).is_err());
            assert_eq!(stale.end(Duration::from_secs(1)).await.expect("nothing to do"), End::AlreadyGone);
        }
        assert_eq!(id.condition(), Condition::Running);
        assert!(sleeper.0.try_wait().expect("our own child").is_none());
    }
}
