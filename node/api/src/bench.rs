//! What `p2p-node bench` prints: what a stage of the work costs on this machine when it runs alone.

use serde::{Deserialize, Serialize};

/// One line of `p2p-node bench WHAT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The WHAT.
    pub bench: String,
    /// What was measured, in the order in which it was done.
    pub stages: Vec<Stage>,
}

impl Measured {
    /// A stage by its name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.stage == name)
    }
}

/// One stage, measured alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// Bytes of content that went through it.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Time that the process spent on all cores, user and system.
    pub cpu_seconds: f64,
    /// Rate by the wall clock; 0 where no content went through.
    pub mib_per_s: f64,
    /// Core-seconds for each GiB; 0 where no content went through.
    pub cpu_seconds_per_gib: f64,
    /// Whole operations; 0 where they are not counted.
    #[serde(default)]
    pub operations: u64,
}

impl Stage {
    /// A stage with the rates that follow from its figures.
    pub fn new(stage: &str, bytes: u64, seconds: f64, cpu_seconds: f64) -> Self {
        const MIB: f64 = (1 << 20) as f64;
        const GIB: f64 = (1 << 30) as f64;
        let (mut mib_per_s, mut cpu_seconds_per_gib) = (0.0, 0.0);
        if bytes > 0 && seconds > 0.0 {
            mib_per_s = bytes as f64 / MIB / seconds;
            cpu_seconds_per_gib = cpu_seconds / (bytes as f64 / GIB);
        }
        Self { stage: stage.to_owned(), bytes, seconds, cpu_seconds, mib_per_s, cpu_seconds_per_gib, operations: 0 }
    }

    /// The same, with so many operations counted.
    #[must_use]
    pub fn of_operations(self, operations: u64) -> Self {
        Self { operations, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_bytes_and_times() {
        let stage = Stage::new("write", 512 << 20, 2.0, 1.0);
        assert_eq!((stage.mib_per_s, stage.cpu_seconds_per_gib), (256.0, 2.0));
        let nothing = Stage::new("close", 0, 1.0, 1.0);
        assert_eq!((nothing.mib_per_s, nothing.cpu_seconds_per_gib), (0.0, 0.0));
        let measured = Measured { bench: "rows".into(), stages: vec![stage.clone(), nothing] };
        assert_eq!((measured.stage("write"), measured.stage("read")), (Some(&stage), None));
    }
}
