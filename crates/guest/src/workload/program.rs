//! Which file is executed.

use std::path::{Path, PathBuf};

/// Where `program` may be, in order: itself when it has a slash, else in the directories of `path`.
pub(crate) fn candidates(program: &str, path: Option<&str>) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![program.into()];
    }
    let path = path.unwrap_or(DEFAULT_PATH);
    path.split(':').filter(|dir| !dir.is_empty()).take(MAX_DIRS).map(|dir| Path::new(dir).join(program)).collect()
}

/// The first of them that can be executed.
pub(crate) fn find(program: &str, path: Option<&str>) -> Option<PathBuf> {
    let executable = |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    candidates(program, path).into_iter().find(executable)
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MAX_DIRS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_through_path_only_without_a_slash() {
        assert_eq!(candidates("./run", Some("/bin")), [PathBuf::from("./run")]);
        assert_eq!(candidates("sh", Some("/a::/b")), [PathBuf::from("/a/sh"), PathBuf::from("/b/sh")]);
        assert!(candidates("sh", None).contains(&"/bin/sh".into()));
    }

    #[test]
    fn passes_over_what_cannot_be_executed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sh")).unwrap();
        let path = format!("{}:/bin", dir.path().display());
        assert_eq!(find("sh", Some(&path)), Some("/bin/sh".into()));
        assert_eq!(find("no-such-program", Some(&path)), None);
    }
}
