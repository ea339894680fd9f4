//! Kubo, the program of IPFS: two repositories of their own on loopback, without the public network.
//!
//! Each round has new ones, so that nothing is there already. No bootstrap peers, no routing, no discovery: the two are
//! connected by hand, and neither speaks to anybody else.

use std::path::{Path, PathBuf};

use p2p_api::{Code, Problem};
use tokio::process::{Child, Command};

use super::others::{check, make};
use super::{Bench, Source, mib_per_s};
use crate::Result;
use crate::bench::table::Unit;
use crate::programs::{limit, run, serve};

/// Settings of both repositories, as JSON.
const CONFIG: [(&str, &str); 7] = [
    ("Addresses.Swarm", r#"["/ip4/127.0.0.1/tcp/0"]"#),
    ("Addresses.API", r#""/ip4/127.0.0.1/tcp/0""#),
    ("Addresses.Gateway", r#""/ip4/127.0.0.1/tcp/0""#),
    ("Bootstrap", "[]"),
    ("Discovery.MDNS.Enabled", "false"),
    ("Routing.Type", r#""none""#),
    ("Swarm.DisableNatPortMap", "true"),
];

/// Newer versions take from a server what was not said above, unless told not to; older ones may not know the words.
const CONFIG_OF_NEWER: [(&str, &str); 5] = [
    ("AutoConf.Enabled", "false"),
    ("AutoTLS.Enabled", "false"),
    ("DNS.Resolvers", "{}"),
    ("Routing.DelegatedRouters", "[]"),
    ("Ipns.DelegatedPublishers", "[]"),
];

/// A repository and its daemon.
pub(super) struct Kubo {
    path: PathBuf,
    _daemon: Child,
}

impl Kubo {
    /// Names of the rows.
    pub(super) const ADD: &str = "Kubo add, daemon running";
    pub(super) const GET: &str = "Kubo get from another repository";

    /// Adds a file to one repository, and gets it from another.
    pub(super) async fn measure(bench: &mut Bench, source: &Source, folder: &Path) -> Result<()> {
        let (holder, reader) = (Self::start(folder.join("a")).await?, Self::start(folder.join("b")).await?);
        bench.settle(source.len).await?;
        let mut add = holder.command();
        add.args(["add", "-Q"]).arg(&source.path);
        let added = run(add, limit(source.len)).await?;
        let cid = String::from_utf8_lossy(&added.stdout).trim().to_owned();
        let address = holder.address().await?;
        let mut connect = reader.command();
        connect.args(["swarm", "connect", &address]);
        run(connect, limit(0)).await?;
        bench.settle(source.len).await?;
        let to = folder.join("back");
        let mut get = reader.command();
        get.args(["get", "--progress=false", "-o"]).arg(&to).arg(&cid);
        let got = run(get, limit(source.len)).await?;
        check(&to, source)?;
        bench.add(Self::ADD, Unit::MibPerS, mib_per_s(source.len, added.seconds));
        bench.add(Self::GET, Unit::MibPerS, mib_per_s(source.len, got.seconds));
        Ok(())
    }

    async fn start(path: PathBuf) -> Result<Self> {
        let path = make(path)?;
        let mut init = command(&path);
        init.arg("init");
        run(init, limit(0)).await?;
        for (name, value) in CONFIG {
            configure(&path, name, value).await?;
        }
        for (name, value) in CONFIG_OF_NEWER {
            let _ = configure(&path, name, value).await;
        }
        let mut daemon = command(&path);
        daemon.arg("daemon");
        let ready = |line: &str| line.contains("Daemon is ready").then(String::new);
        let (daemon, _) = serve(daemon, ready).await?;
        Ok(Self { path, _daemon: daemon })
    }

    fn command(&self) -> Command {
        command(&self.path)
    }

    /// Where the other one reaches this one.
    async fn address(&self) -> Result<String> {
        let mut id = self.command();
        id.args(["id", "-f", "<addrs>"]);
        let said = String::from_utf8_lossy(&run(id, limit(0)).await?.stdout).into_owned();
        let loopback = said.split_whitespace().find(|address| address.contains("/127.0.0.1/tcp/"));
        let none = || Problem::new(Code::Other, "the daemon of ipfs says no address of its own");
        loopback.map(str::to_owned).ok_or_else(none)
    }
}

async fn configure(path: &Path, name: &str, value: &str) -> Result<()> {
    let mut config = command(path);
    config.args(["config", "--json", name, value]);
    run(config, limit(0)).await.map(drop)
}

fn command(path: &Path) -> Command {
    let mut command = Command::new("ipfs");
    command.env("IPFS_PATH", path);
    command
}
