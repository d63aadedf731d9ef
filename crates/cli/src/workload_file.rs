//! The workload file: what a person writes (YAML), and how flags override it.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroU64,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;
use casemate_api::workload;
use casemate_lifecycle::network::{Egress, PolicyError, Published};
use serde::Deserialize;

use crate::args;

/// Largest workload file, in bytes.
const MAX_BYTES: u64 = 256 << 10;

/// A workload as written by a person. Paths are relative to the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadFile {
    /// Format version; 1.
    pub(crate) version: Option<u16>,
    pub(crate) name: Option<String>,
    pub(crate) isolation: Option<String>,
    pub(crate) image: Option<String>,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) assets: Vec<Asset>,
    /// Without it there is no network.
    pub(crate) network: Option<Network>,
    /// Folder with the key files of encrypted layers.
    pub(crate) layer_keys: Option<PathBuf>,
    /// Key files that `--key` names for something else than an asset.
    #[serde(skip)]
    pub(crate) layer_key: BTreeMap<String, PathBuf>,
    #[serde(default)]
    pub(crate) output: Output,
    pub(crate) ttl_s: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resources {
    pub(crate) cpus: Option<u32>,
    pub(crate) memory_mib: Option<u64>,
    pub(crate) scratch_mib: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asset {
    pub(crate) name: String,
    /// Ciphertext.
    pub(crate) file: PathBuf,
    /// Key file; here or with `--key NAME=FILE`.
    pub(crate) key: Option<PathBuf>,
    /// Where the plaintext appears in the guest.
    pub(crate) path: Option<String>,
}

/// Rules as people write them; see docs/network.md.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    #[serde(default)]
    pub(crate) egress: Vec<String>,
    #[serde(default)]
    pub(crate) publish: Vec<String>,
    pub(crate) send_limit: Option<NonZeroU64>,
    pub(crate) receive_limit: Option<NonZeroU64>,
    pub(crate) new_connections_limit: Option<NonZeroU64>,
}

impl Network {
    /// In the one way in which rules are written.
    pub(crate) fn resolve(&self) -> anyhow::Result<workload::Network> {
        Ok(workload::Network {
            egress: in_one_way::<Egress>("network.egress", &self.egress)?,
            publish: in_one_way::<Published>("network.publish", &self.publish)?,
            send_limit: self.send_limit,
            receive_limit: self.receive_limit,
            new_connections_limit: self.new_connections_limit,
        })
    }
}

fn in_one_way<R: FromStr<Err = PolicyError> + ToString>(field: &str, texts: &[String]) -> anyhow::Result<Vec<String>> {
    let rule = |(index, text): (usize, &String)| {
        text.parse::<R>().map(|rule| rule.to_string()).with_context(|| format!("read {field}[{index}] of the workload file"))
    };
    texts.iter().enumerate().map(rule).collect()
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Output {
    /// Folder in the guest whose content comes back.
    pub(crate) path: Option<String>,
}

impl WorkloadFile {
    /// The file (if any) with the flags laid over it.
    pub(crate) fn from_args(run: &args::Run) -> anyhow::Result<Self> {
        let mut workload = match &run.file {
            Some(path) => read(path)?,
            None => Self { version: Some(1), ..Self::default() },
        };
        anyhow::ensure!(workload.version == Some(1), "the workload file must say `version: 1`");
        override_with(&mut workload.name, &run.name);
        override_with(&mut workload.isolation, &run.isolation);
        override_with(&mut workload.image, &run.image);
        override_with(&mut workload.resources.cpus, &run.cpus);
        override_with(&mut workload.resources.memory_mib, &run.memory_mib);
        override_with(&mut workload.resources.scratch_mib, &run.scratch_mib);
        override_with(&mut workload.ttl_s, &run.ttl_s);
        override_with(&mut workload.layer_keys, &run.layer_keys);
        if !run.command.is_empty() {
            workload.command.clone_from(&run.command);
        }
        for variable in &run.env {
            let (name, value) = pair(variable, "--env NAME=VALUE")?;
            workload.env.insert(name.to_owned(), value.to_owned());
        }
        if !run.egress.is_empty() || !run.publish.is_empty() {
            let network = workload.network.get_or_insert_default();
            network.egress.extend(run.egress.iter().cloned());
            network.publish.extend(run.publish.iter().cloned());
        }
        workload.assets_from(run)?;
        Ok(workload)
    }

    fn assets_from(&mut self, run: &args::Run) -> anyhow::Result<()> {
        for text in &run.assets {
            let (name, rest) = pair(text, "--asset NAME=FILE[:PATH]")?;
            let (file, path) = match rest.rsplit_once(":/") {
                Some((file, path)) => (file, Some(format!("/{path}"))),
                None => (rest, None),
            };
            self.assets.retain(|asset| asset.name != name);
            self.assets.push(Asset { name: name.to_owned(), file: file.into(), key: None, path });
        }
        for text in &run.keys {
            let (name, file) = pair(text, "--key NAME=FILE")?;
            match self.assets.iter_mut().find(|asset| asset.name == name) {
                Some(asset) => asset.key = Some(file.into()),
                // Of a layer, if the image has one of that name: known when the image is.
                None => drop(self.layer_key.insert(name.to_owned(), file.into())),
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> anyhow::Result<WorkloadFile> {
    let attempt = || format!("read workload file {}", path.display());
    anyhow::ensure!(
        fs::metadata(path).with_context(attempt)?.len() <= MAX_BYTES,
        "{} is longer than {MAX_BYTES} bytes",
        path.display()
    );
    let text = fs::read_to_string(path).with_context(attempt)?;
    let mut workload: WorkloadFile = serde_yaml_ng::from_str(&text).with_context(attempt)?;
    let base = path.parent().unwrap_or(Path::new("."));
    for asset in &mut workload.assets {
        asset.file = base.join(&asset.file);
        asset.key = asset.key.take().map(|key| base.join(key));
    }
    workload.layer_keys = workload.layer_keys.take().map(|folder| base.join(folder));
    if let Some(image) = &mut workload.image {
        rebase_image(image, base);
    }
    Ok(workload)
}

/// `oci:./x` in a file is relative to that file.
fn rebase_image(image: &mut String, base: &Path) {
    for scheme in ["oci:", "oci-archive:"] {
        if let Some(path) = image.strip_prefix(scheme)
            && Path::new(path).is_relative()
        {
            *image = format!("{scheme}{}", base.join(path).display());
            return;
        }
    }
}

fn override_with<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
    if flag.is_some() {
        field.clone_from(flag);
    }
}

fn pair<'a>(text: &'a str, usage: &str) -> anyhow::Result<(&'a str, &'a str)> {
    text.split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .with_context(|| format!("expected {usage}, got {text:?}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &[&str]) -> anyhow::Result<WorkloadFile> {
        let cli = Cli::parse_from([&["casemate", "run"], line].concat());
        let Command::Run(run) = cli.command else { panic!("run was asked for") };
        WorkloadFile::from_args(&run)
    }

    #[test]
    fn flags_override_the_file_and_paths_follow_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.yaml");
        fs::write(&file, "version: 1\nimage: oci:./a.oci\nresources: {cpus: 2}\nassets: [{name: d, file: d.enc, key: d.key}]\n")
            .unwrap();
        let workload = parse(&[file.to_str().unwrap(), "--cpus", "3", "--", "sh", "-c", "x"]).unwrap();
        assert_eq!(workload.resources.cpus, Some(3));
        assert_eq!(workload.command, ["sh", "-c", "x"]);
        assert_eq!(workload.assets[0].file, dir.path().join("d.enc"));
        assert!(workload.image.unwrap().contains(dir.path().to_str().unwrap()));
    }

    #[test]
    fn splits_assets_and_refuses_nonsense() {
        let workload = parse(&["--asset", "data=./x.enc:/in/x", "--key", "data=k"]).unwrap();
        assert_eq!(workload.assets[0].file, Path::new("./x.enc"));
        assert_eq!(workload.assets[0].path.as_deref(), Some("/in/x"));
        assert!(parse(&["--asset", "data"]).is_err());
        assert_eq!(parse(&["--key", "layer-1=k"]).unwrap().layer_key["layer-1"], Path::new("k"));
        assert!(parse(&["--key", "layer-1"]).is_err());
        assert!(parse(&["--env", "=x"]).is_err());
    }

    #[test]
    fn flags_give_a_network_or_add_to_that_of_the_file() {
        assert!(parse(&[]).unwrap().network.is_none());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.yaml");
        fs::write(&file, "version: 1\nnetwork: {egress: [example.org], send_limit: 5}\n").unwrap();
        let network =
            parse(&[file.to_str().unwrap(), "--egress", "203.0.113.7:tcp/443", "--publish", "8080:tcp/80"]).unwrap().network;
        let network = network.unwrap().resolve().unwrap();
        assert_eq!(network.egress, ["example.org", "203.0.113.7/32:tcp/443"]);
        assert_eq!(
            (network.publish.as_slice(), network.send_limit.map(NonZeroU64::get)),
            (&["8080:tcp/80".to_owned()][..], Some(5))
        );
        let only_flags = parse(&["--egress", "::/0"]).unwrap().network.unwrap();
        assert_eq!((only_flags.egress.len(), only_flags.publish.len()), (1, 0));
    }

    #[test]
    fn rules_of_the_network_are_brought_into_one_form_and_hostile_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.yaml");
        let network = |text: &str| {
            fs::write(&file, format!("version: 1\nnetwork: {text}\n")).unwrap();
            parse(&[file.to_str().unwrap()])?.network.unwrap_or_default().resolve()
        };
        let good = network("{egress: [203.0.113.7, 'Example.org:tcp/443'], publish: ['8080:tcp/80'], send_limit: 1000}").unwrap();
        assert_eq!(good.egress, ["203.0.113.7/32", "example.org:tcp/443"]);
        assert_eq!((good.publish.len(), good.send_limit.map(NonZeroU64::get)), (1, Some(1000)));
        for (bad, named) in [
            ("{egress: ['1.2.3.4/24']}", "network.egress[0]"),
            ("{egress: ['::/0', 'a;b.c']}", "network.egress[1]"),
            ("{publish: ['80']}", "network.publish[0]"),
            ("{send_limit: 0}", "send_limit"),
            ("{send_limit: -1}", "send_limit"),
            ("{ingress: []}", "ingress"),
            ("all", "network"),
        ] {
            let error = format!("{:#}", network(bad).unwrap_err());
            assert!(error.contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn refuses_unknown_fields_and_other_versions() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("w.yaml");
        for text in ["version: 2\n", "image: x\n", "version: 1\nimagee: x\n", "version: 1\nassets: 7\n", "\u{0}", "- a"] {
            fs::write(&file, text).unwrap();
            assert!(parse(&[file.to_str().unwrap()]).is_err(), "{text:?}");
        }
    }
}
