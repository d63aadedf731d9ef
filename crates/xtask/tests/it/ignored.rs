//! Ignored tests are those over evidence of real machines, and no others: where that is, `cargo xtask ci` runs all that are ignored.

use crate::sources::{crates, rust_files};

const REASON: &str = r#"#[ignore = "evidence of real machines: CASEMATE_VECTORS"]"#;

#[test]
fn only_tests_over_evidence_of_real_machines_are_ignored() {
    let mut seen = 0;
    let mut others = Vec::new();
    for (path, text) in rust_files(&crates()) {
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("#[") && ignores(line)) {
            seen += 1;
            others.extend((line != REASON).then(|| format!("{}: {line}", path.display())));
        }
    }
    assert!(others.is_empty(), "a test that is ignored for another reason is run by nobody or too often: {others:#?}");
    assert!(seen > 40, "only {seen} tests are ignored: this one reads too little");
}

fn ignores(attribute: &str) -> bool {
    attribute.split(|character: char| !character.is_alphanumeric() && character != '_').any(|word| word == "ignore")
}
