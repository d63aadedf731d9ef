use super::*;

const SOURCE: &str = "fn f(a: u8, b: Option<u8>) -> bool {
    let c = S { x: a, ..S::default() };
    match b {
        Some(d) if d == 1 => !(a < d && c.x > 2),
        Some(_) => true,
        _ => false,
    }
}
";

fn mutant(id: u32, genre: &str, line: usize, column: usize, replacement: &str) -> Mutant {
    let json = serde_json::json!({
        "file": "f.rs", "name": "f.rs:1:1: m", "genre": genre, "replacement": replacement,
        "span": {"start": {"line": line, "column": column}, "end": {"line": 1, "column": 1}},
    });
    let mut mutant: Mutant = serde_json::from_value(json).unwrap();
    mutant.id = id;
    mutant
}

fn rendered(mutants: &[Mutant]) -> String {
    let found = sites::find(SOURCE, &mutants.iter().collect::<Vec<_>>(), &[]).unwrap();
    assert!(found.apart.is_empty(), "{:?}", found.apart);
    render::render(SOURCE, &found).replace(render::SWITCH, "on(")
}

#[test]
fn every_kind_of_mutant_is_behind_its_switch() {
    let text = rendered(&[
        mutant(1, "FnValue", 2, 5, "false"),
        mutant(2, "StructField", 2, 17, ""),
        mutant(3, "MatchArmGuard", 4, 20, "true"),
        mutant(4, "MatchArmGuard", 4, 20, "false"),
        mutant(5, "BinaryOperator", 4, 22, "!="),
        mutant(6, "UnaryOperator", 4, 30, ""),
        mutant(7, "BinaryOperator", 4, 38, "||"),
        mutant(8, "MatchArm", 5, 9, ""),
    ]);
    for expected in [
        "if on(1) { return false; } let c",
        "x: if on(2) { (S::default()).x } else { a }",
        "Some(d) if (on(3) || (!on(4) && ((if on(5) { d != 1 } else { d == 1 }))))",
        "(if on(6) { (a < d && c.x > 2) } else { !((if on(7) { a < d || c.x > 2 } else { a < d && c.x > 2 })) })",
        "Some(_) if !on(8) => true",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    syn::parse_file(&text).unwrap();
}

#[test]
fn without_mutants_nothing_changes() {
    assert_eq!(rendered(&[]), SOURCE);
}

#[test]
fn a_mutant_whose_place_is_not_found_is_said() {
    let lost = mutant(1, "UnaryOperator", 1, 1, "");
    let found = sites::find(SOURCE, &[&lost], &[]).unwrap();
    assert_eq!(found.apart.len(), 1);
}

#[test]
fn ignored_tests_are_left_out_and_so_are_those_that_are_named() {
    let listed = "a::real: test\na::made: test\na::slow: test\nbench: benchmark\n\n3 tests, 1 benchmark\n";
    assert_eq!(run::chosen(listed, "a::real: test\n\n1 test, 0 benchmarks\n", &["a::slow"]), ["a::made"]);
    assert_eq!(run::chosen(listed, "", &[]), ["a::real", "a::made", "a::slow"]);
}

#[test]
fn survivors_of_a_report_are_known_by_what_was_changed() {
    let report = "| all | 3 |\n\n## Survivors\n\n- NEW `crates/verifier/src/a/b.rs:7:9: replace > with >= in f` (no test reaches it)\n\
        - known `crates/verifier/src/c.rs:1:1: delete !`\n\n## Not behind a switch\n\n- `crates/verifier/src/d.rs:1:1: delete -`: why\n";
    let seen: Vec<String> = super::survivors(report).into_iter().collect();
    assert_eq!(seen, ["a/b.rs: replace > with >= in f", "c.rs: delete !"]);
}
