//! The database: where it is, and how to get in.

use std::{
    path::{Path, PathBuf},
    str::FromStr as _,
};

use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::within;
use crate::store::{PostgresAccess, StoreAccess};

/// Name of SQLite's file in the data folder.
const SQLITE: &str = "casemate.db";
/// Longest file with a password, in bytes.
const MAX_PASSWORD: usize = 4096;

/// `[store]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `postgres://USER@HOST:PORT/DATABASE`; without it SQLite in the data folder.
    #[serde(default)]
    pub url: Option<String>,
    /// File with the password, for this user's eyes only.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Most connections of this server.
    #[serde(default = "connections")]
    pub connections: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { url: None, password_file: None, connections: connections() }
    }
}

impl StoreConfig {
    /// Where the database is.
    pub(super) fn check(&self, data_dir: &Path, faults: &mut Vec<String>) -> StoreAccess {
        let sqlite = StoreAccess::Sqlite(data_dir.join(SQLITE));
        // One connection listens, and a transaction may need one while others read.
        within(faults, "store.connections", u64::from(self.connections), 4, 1000);
        let Some(url) = &self.url else {
            if self.password_file.is_some() {
                faults.push("store.password_file: it is of no use without store.url".into());
            }
            return sqlite;
        };
        match self.postgres(url) {
            Ok(options) => StoreAccess::Postgres(PostgresAccess { options: Box::new(options), connections: self.connections }),
            Err(fault) => {
                faults.push(fault);
                sqlite
            }
        }
    }

    fn postgres(&self, url: &str) -> Result<PgConnectOptions, String> {
        // What is wrong with it is not shown: it may hold what it should not.
        let malformed = || "store.url: must be like postgres://user@host:5432/database, in RFC 3986's form".to_owned();
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://")).ok_or_else(malformed)?;
        let (authority, _) = rest.split_once('/').ok_or_else(malformed)?;
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        if user.contains(':') || url.contains("password=") {
            return Err("store.url: leave the password out and put it into the file of store.password_file".into());
        }
        let mut options = PgConnectOptions::from_str(url).map_err(|_| malformed())?;
        if options.get_database().is_none() {
            return Err("store.url: it names no database".into());
        }
        let local = options.get_socket().is_some() || ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&options.get_host());
        if !local && !url.contains("sslmode=") && !url.contains("ssl-mode=") {
            // Over a network nothing less, unless somebody says so.
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        match &self.password_file {
            Some(path) => Ok(options.password(&password(path)?)),
            None => Ok(options),
        }
    }
}

fn password(path: &Path) -> Result<String, String> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = |error| format!("store.password_file: read {}: {error}", path.display());
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.mode() & 0o077 != 0 {
        return Err(format!("store.password_file: others may read {}; chmod 600 it", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() || text.len() > MAX_PASSWORD || text.contains('\0') {
        return Err(format!("store.password_file: {} must have 1 to {MAX_PASSWORD} bytes on one line", path.display()));
    }
    Ok(text.to_owned())
}

fn connections() -> u32 {
    16
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn check(config: &StoreConfig) -> Result<PgConnectOptions, Vec<String>> {
        let mut faults = Vec::new();
        match config.check(Path::new("/data"), &mut faults) {
            StoreAccess::Postgres(access) if faults.is_empty() => Ok(*access.options),
            _ => Err(faults),
        }
    }

    fn at(url: &str) -> StoreConfig {
        StoreConfig { url: Some(url.into()), ..StoreConfig::default() }
    }

    #[test]
    fn without_an_address_it_is_the_file_in_the_data_folder() {
        let access = StoreConfig::default().check(Path::new("/data"), &mut Vec::new());
        assert!(matches!(access, StoreAccess::Sqlite(path) if path == Path::new("/data/casemate.db")));
    }

    #[test]
    fn over_a_network_the_database_is_verified_unless_somebody_says_otherwise() {
        assert!(matches!(check(&at("postgres://me@db.example/c")).unwrap().get_ssl_mode(), PgSslMode::VerifyFull));
        let weaker = check(&at("postgres://me@db.example/c?sslmode=require")).unwrap();
        assert!(matches!(weaker.get_ssl_mode(), PgSslMode::Require));
        let socket = check(&at("postgres://me@%2Frun%2Fpostgresql/c")).unwrap();
        assert_eq!(socket.get_socket().unwrap(), Path::new("/run/postgresql"));
    }

    #[test]
    fn a_password_stays_out_of_the_address_and_out_of_every_message() {
        for url in ["postgres://me:hunter2@h/c", "postgres://me@h/c?password=hunter2", "mysql://me:hunter2@h/c", "postgres://h"] {
            let faults = check(&at(url)).unwrap_err();
            assert!(faults.len() == 1 && !faults[0].contains("hunter2"), "{faults:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "hunter2\n").unwrap();
        let config = StoreConfig { password_file: Some(path.clone()), ..at("postgres://me@localhost/c") };
        for (mode, good) in [(0o640, false), (0o600, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check(&config).is_ok(), good, "{mode:o}");
        }
        let shown = format!("{:?}", config.check(dir.path(), &mut Vec::new()));
        assert!(shown.contains("localhost") && !shown.contains("hunter2"), "{shown}");
        assert!(check(&StoreConfig { connections: 1, ..at("postgres://me@h/c") }).is_err());
    }
}
