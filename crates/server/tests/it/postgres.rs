//! A real PostgreSQL for one test process: Debian's programs, a socket in a temporary folder, no port, no system service.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

/// Which engine the tests of this binary run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each binary of tests has one of them")]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// The `[store]` of a platform with this folder: the same folder has the same database.
pub(crate) fn store_section(dir: &Path) -> String {
    match crate::ENGINE {
        Engine::Sqlite => String::new(),
        Engine::Postgres => format!("[store]\nurl = \"{}\"\n", cluster().database(dir)),
    }
}

/// The one cluster of this process; it ends with the process, however that ends.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::launch(|_| vec!["listen_addresses=".to_owned()]))
}

pub(crate) struct Cluster {
    dir: PathBuf,
    /// In the socket's name, also where nobody listens on it.
    port: String,
}

impl Cluster {
    /// Starts one with the settings that `prepare` answers; it may write into the folder of data.
    pub(crate) fn launch(prepare: impl FnOnce(&Path) -> Vec<String> + Send + 'static) -> Self {
        // Death is told to the child when its parent's thread ends, so that thread lives as long as the process.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            sender.send(Self::start(prepare)).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().expect("PostgreSQL starts")
    }

    fn start(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("casemate-pg-").tempdir().unwrap().keep();
        copy(&template(), &dir.join("data"));
        let settings = prepare(&dir.join("data"));
        let port = settings.iter().find_map(|setting| setting.strip_prefix("port=")).unwrap_or("5432").to_owned();
        let cluster = Self { dir, port };
        // Whoever kills this process with the tests leaves nothing: the shell hears of it, ends the server and removes the folder.
        let script = r#"trap 'kill -QUIT $pid' TERM; "$@" & pid=$!; wait $pid; wait $pid; rm -rf "$DIR""#;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "sh", "-c", script, "sh"]).args(unprivileged()).arg(program("postgres"));
        command.arg("-D").arg(cluster.dir.join("data")).arg("-k").arg(&cluster.dir);
        for setting in ["fsync=off", "shared_buffers=16MB", "max_connections=200"] {
            command.args(["-c", setting]);
        }
        settings.iter().for_each(|setting| _ = command.args(["-c", setting]));
        let log = std::fs::File::create(cluster.dir.join("log")).unwrap();
        command.env("DIR", &cluster.dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        #[expect(clippy::zombie_processes, reason = "it lives as long as the process of the tests, whose end ends it")]
        command.spawn().expect("start PostgreSQL");
        cluster.wait();
        cluster
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.try_run("postgres", "SELECT 1").is_err() {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The address of the database of `dir`, which is made at the first call.
    pub(crate) fn database(&self, dir: &Path) -> String {
        let name = format!("t{}", hex::encode(&Sha256::digest(dir.as_os_str().as_encoded_bytes())[..8]));
        if self.run("postgres", &format!("SELECT 1 FROM pg_database WHERE datname = '{name}'")).is_empty() {
            self.run("postgres", &format!("CREATE DATABASE {name}"));
        }
        let host = self.dir.to_str().unwrap().replace('/', "%2F");
        format!("postgres://casemate@{host}/{name}")
    }

    /// Kills a process of the server, which then ends all others and recovers.
    #[allow(dead_code, reason = "only with several replicas")]
    pub(crate) fn crash(&self) {
        let pid = self.run("postgres", "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
        assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
        self.wait();
    }

    /// Runs SQL; rows without decoration.
    pub(crate) fn run(&self, database: &str, sql: &str) -> String {
        self.try_run(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    pub(crate) fn try_run(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "casemate", "-d", database, "-c", sql]);
        let output = command.args(["-p", &self.port, "-h"]).arg(&self.dir).output().expect("run psql");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

/// PostgreSQL refuses to be root. In a user namespace it is somebody else, who has no rights outside and still owns our folders.
fn unprivileged() -> Vec<&'static str> {
    if rustix::process::geteuid().is_root() {
        vec!["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    } else {
        Vec::new()
    }
}

/// Debian keeps the programs of each version in a folder of its own.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|entry| entry.path().join("bin").join(name)).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| panic!("{name} is not there: install the package postgresql (scripts/setup.sh does)"))
}

/// What `initdb` makes, made once.
fn template() -> PathBuf {
    let initdb = program("initdb");
    let version = initdb.components().rev().nth(2).unwrap().as_os_str().to_str().unwrap().to_owned();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = root.join(format!("postgres-{version}"));
    if !template.exists() {
        let fresh = tempfile::tempdir_in(root).unwrap();
        let data = fresh.path().join("data");
        let mut words: Vec<std::ffi::OsString> = unprivileged().into_iter().map(Into::into).collect();
        words.push(initdb.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("-D").arg(&data);
        command.args(["-U", "casemate", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--wal-segsize=1"]);
        let output = command.output().expect("run initdb");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        // Of several processes at the same time the first one wins.
        let _ = std::fs::rename(&data, &template);
    }
    template
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(to).status().expect("run cp");
    assert!(done.success(), "copy {}", from.display());
}
