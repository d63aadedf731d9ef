//! The kernel fragment: what it asks for, and whether a configuration has it.

use std::collections::{BTreeMap, BTreeSet};

const SECTION: &str = "# ---";
const WHERE_KNOWN: &str = "[where known]";

/// One line of the fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    /// `CONFIG_...`.
    pub(crate) symbol: String,
    /// As in `.config`: `y`, a number, a quoted text; `n` for "is not set".
    pub(crate) value: String,
    /// Only in kernels that know the symbol.
    pub(crate) where_known: bool,
}

/// The wishes in a fragment's text.
pub(crate) fn parse(text: &str) -> Vec<Wish> {
    let mut where_known = false;
    let mut wishes = Vec::new();
    for line in text.lines() {
        if line.starts_with(SECTION) {
            where_known = line.contains(WHERE_KNOWN);
        } else if let Some((symbol, value)) = assignment(line) {
            wishes.push(Wish { symbol: symbol.to_owned(), value: value.to_owned(), where_known });
        }
    }
    wishes
}

/// The fragment as `merge_config.sh` reads it.
pub(crate) fn fragment(wishes: &[Wish]) -> String {
    wishes.iter().map(|wish| format!("{}={}\n", wish.symbol, wish.value)).collect()
}

/// The wishes that `config` does not have.
pub(crate) fn unmet<'a>(wishes: &'a [Wish], config: &str) -> Vec<(&'a Wish, String)> {
    let set: BTreeMap<&str, &str> = config.lines().filter_map(assignment).collect();
    let value = |wish: &Wish| set.get(wish.symbol.as_str()).copied().unwrap_or("n").to_owned();
    // Some switches of newer kernels were numbers in older ones, and zero was off.
    let met = |wish: &Wish, value: &str| value == wish.value || (wish.value == "n" && value == "0");
    wishes.iter().map(|wish| (wish, value(wish))).filter(|(wish, value)| !met(wish, value)).collect()
}

/// The symbols that a `Kconfig` file declares.
pub(crate) fn declared(kconfig: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let line = line.trim_start();
        let rest = line.strip_prefix("config ").or_else(|| line.strip_prefix("menuconfig "))?;
        Some(format!("CONFIG_{}", rest.trim()))
    };
    kconfig.lines().filter_map(name).collect()
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    line.starts_with("CONFIG_").then(|| line.trim_end().split_once('=')).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str =
        "# --- Ours.\nCONFIG_SMP=y\nCONFIG_SWAP=n\n# why\nCONFIG_LSM=\"yama\"\n# --- Names. [where known]\nCONFIG_NEW=y\n";

    #[test]
    fn a_line_without_effect_is_found_and_an_absent_symbol_counts_as_off() {
        let wishes = parse(FRAGMENT);
        let met = "CONFIG_SMP=y\n# CONFIG_SWAP is not set\nCONFIG_LSM=\"yama\"\nCONFIG_NEW=y\n";
        assert_eq!(unmet(&wishes, met), []);
        let missing = unmet(&wishes, "CONFIG_SWAP=y\nCONFIG_LSM=\"yama\"\n");
        let symbols: Vec<&str> = missing.iter().map(|(wish, _)| wish.symbol.as_str()).collect();
        assert_eq!(symbols, ["CONFIG_SMP", "CONFIG_SWAP", "CONFIG_NEW"]);
        assert!(missing[2].0.where_known && !missing[0].0.where_known);
    }

    #[test]
    fn the_fragment_in_the_repository_names_each_symbol_once() {
        let wishes = parse(include_str!("../../../../guest-os/kernel.config"));
        let symbols: BTreeSet<&str> = wishes.iter().map(|wish| wish.symbol.as_str()).collect();
        assert_eq!(symbols.len(), wishes.len());
        assert!(wishes.len() > 150);
    }

    #[test]
    fn the_fragment_keeps_the_promises_about_hardening() {
        let wishes = parse(include_str!("../../../../guest-os/kernel.config"));
        let has = |symbol: &str, value: &str| {
            wishes.iter().any(|wish| wish.symbol == symbol && wish.value == value && !wish.where_known)
        };
        for symbol in ["CONFIG_MODULES", "CONFIG_SWAP", "CONFIG_COREDUMP", "CONFIG_DEVMEM", "CONFIG_KEXEC", "CONFIG_VIRTIO_PCI"] {
            assert!(has(symbol, "n"), "{symbol}");
        }
        for symbol in [
            "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
            "CONFIG_SECCOMP_FILTER",
            "CONFIG_SECURITY_LANDLOCK",
            "CONFIG_DM_VERITY",
        ] {
            assert!(has(symbol, "y"), "{symbol}");
        }
    }

    #[test]
    fn reads_the_symbols_of_a_kconfig_file() {
        let found = declared("menuconfig NET\n\tbool\nconfig UNIX\n\tdepends on NET\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["CONFIG_NET", "CONFIG_UNIX"]);
    }
}
