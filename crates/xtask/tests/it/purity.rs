//! Pure crates decide from their arguments only: no clock, no randomness, no environment, no files, no sockets.

use std::fs;

use crate::sources::{crates, rust_files};

const PURE: [&str; 4] = ["evidence", "lifecycle", "seal", "verifier"];

/// Words that code of a pure crate does not contain, outside its tests.
const FORBIDDEN: [&str; 17] = [
    "std::env",
    "std::fs",
    "std::net",
    "std::os::",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "getrandom",
    "thread_rng",
    "OsRng",
    "SysRng",
    "SystemRandom",
    "ring::rand",
    "async fn",
    "tokio",
    "println!",
];

#[test]
fn pure_crates_forbid_unsafe_code() {
    for name in PURE {
        let root = crates().join(name).join("src/lib.rs");
        assert!(fs::read_to_string(&root).unwrap().contains("#![forbid(unsafe_code)]"), "{}", root.display());
    }
}

#[test]
fn pure_crates_touch_nothing_outside_themselves() {
    let mut found = Vec::new();
    for name in PURE {
        for (path, text) in rust_files(&crates().join(name).join("src")) {
            for (number, line) in product_code(&text) {
                for word in FORBIDDEN.iter().filter(|word| line.contains(*word)) {
                    found.push(format!("{}:{number}: {word}", path.display()));
                }
            }
        }
    }
    assert!(found.is_empty(), "hand these in as arguments instead: {found:#?}");
}

/// ring has random numbers beside its signatures: the one module that may name it takes signatures only.
#[test]
fn ring_verifies_signatures_in_one_module_and_does_nothing_else() {
    let mut seen = Vec::new();
    for name in PURE {
        for (path, text) in rust_files(&crates().join(name).join("src")) {
            let named = |line: &String| format!(" {line}").replace("String::", "").contains("ring::");
            seen.extend(product_code(&text).into_iter().map(|(_, line)| line).filter(named).map(|line| (path.clone(), line)));
        }
    }
    assert!(!seen.is_empty(), "the verifier has another library, or this test reads nothing");
    for (path, line) in seen {
        assert!(
            path.ends_with("verifier/src/signature.rs") && line.starts_with("use ring::signature::"),
            "{}: {line}",
            path.display()
        );
    }
}

/// The numbered lines without comments, and without what only tests compile. `std::{fs, ...}` is seen as `std::fs`.
fn product_code(text: &str) -> Vec<(usize, String)> {
    let (mut code, mut in_std, mut in_test) = (Vec::new(), false, None);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split("//").next().unwrap_or_default();
        if line.trim_start().starts_with("#[cfg(test)]") {
            in_test = Some(0_i32);
            continue;
        }
        if let Some(depth) = &mut in_test {
            *depth += line.chars().map(|character| i32::from(character == '{') - i32::from(character == '}')).sum::<i32>();
            // The item ends where its braces are closed, or with a semicolon outside of any.
            if *depth == 0 && line.trim_end().ends_with(['}', ';']) {
                in_test = None;
            }
            continue;
        }
        in_std |= line.starts_with("use std::{");
        let names = line.trim_start_matches("use std::{").split([',', '{', '}', ';']).map(str::trim);
        let imported: String = names.filter(|name| in_std && !name.is_empty()).map(|name| format!(" std::{name}::")).collect();
        code.push((number, format!("{line}{imported}")));
        in_std &= !line.contains("};");
    }
    code
}

#[test]
fn code_behind_an_item_for_tests_is_seen() {
    let code = product_code(
        "#[cfg(test)]\nmod tests;\nuse std::fs;\n#[cfg(test)]\nmod more {\n    fn f() {\n    }\n    use std::env;\n}\nuse std::net;\n",
    );
    let text: String = code.into_iter().map(|(_, line)| line).collect();
    assert!(text.contains("std::fs") && text.contains("std::net"), "{text}");
    assert!(!text.contains("std::env"), "{text}");
}

#[test]
fn an_import_in_braces_is_seen() {
    let code = product_code("use std::{\n    fs,\n    time::Duration,\n};\nfn f() {} // std::net\n#[cfg(test)]\nuse std::env;\n");
    let text: String = code.into_iter().map(|(_, line)| line).collect();
    assert!(text.contains("std::fs"), "{text}");
    assert!(!text.contains("std::net") && !text.contains("std::env"), "{text}");
}
