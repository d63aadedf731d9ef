//! Decoders of outside bytes, by name: one list for the fuzz targets in `fuzz/` and for the test that replays their corpus. Nothing of the
//! product comes here.

use casemate_lifecycle::network::{Cidr, Egress, Name, Policy, Published};

use super::{address::Link, resolver, ruleset};

/// One decoder, with whatever reads its result.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Name of its fuzz target and of the folder of its corpus.
    pub name: &'static str,
    /// Decodes anything. It must come back without a panic.
    pub run: fn(&[u8]),
}

/// All of them.
pub const DECODERS: [Decoder; 3] = [
    Decoder { name: "dns_answer", run: resolver::decoders::answer },
    Decoder { name: "dns_question", run: resolver::decoders::question },
    Decoder { name: "network_rules", run: rules },
];

/// Rules as in a workload, one a line; and the packet filter's rules that are made of them.
fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut policy = Policy::default();
    for line in text.lines() {
        if let Ok(rule) = line.parse::<Egress>() {
            assert_eq!(rule.to_string().parse::<Egress>().as_ref(), Ok(&rule), "it reads what it writes");
            policy.egress.push(rule);
        }
        policy.published.extend(line.parse::<Published>().ok());
        if let Ok(range) = line.parse::<Cidr>() {
            assert!(range.contains(&range));
        }
        if let Ok(name) = line.parse::<Name>() {
            let _ = name.covers(text);
        }
    }
    if policy.check().is_err() {
        return;
    }
    let link = Link::of(&"i-1".parse().expect("an id"), 0, 1500);
    for line in ruleset::of_instance(&link, &policy).lines() {
        let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        assert!(line.starts_with("add ") && line.bytes().all(plain), "{line:?}");
        assert!(
            policy.names().all(|(_, name)| !line.contains(&name.to_string())),
            "no text of a tenant becomes a rule: {line:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Each file, each cut of it, and each with one byte changed to several others.
    #[test]
    fn the_corpus_and_changes_of_it_do_no_harm() {
        for Decoder { name, run } in DECODERS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/node/corpus").join(name);
            let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
            assert!(!files.is_empty(), "{name}");
            for file in files {
                run(&file);
                for at in 0..file.len() {
                    run(&file[..at]);
                    for change in [0x01, 0x20, 0x80, 0xff] {
                        let mut changed = file.clone();
                        changed[at] ^= change;
                        run(&changed);
                    }
                }
            }
        }
    }
}
