//! Writes a file with all its mutants in it, each behind a switch.

use super::sites::{Found, Kind, Range, Site};

/// `text` with the sites that were found in it.
pub(super) fn render(text: &str, found: &Found) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for constness in &found.constants {
        // Blanks, so that nothing moves.
        bytes[constness.clone()].fill(b' ');
    }
    let text = String::from_utf8(bytes).expect("keywords are ASCII");
    part(&text, 0..text.len(), &found.sites)
}

/// The text of `range`, in which `sites` are: outer before inner.
fn part(text: &str, range: Range, sites: &[Site]) -> String {
    let mut out = String::new();
    let mut at = range.start;
    let mut rest = sites;
    while let Some((site, others)) = rest.split_first() {
        let inside = others.iter().take_while(|other| !site.range.is_empty() && within(&other.range, &site.range)).count();
        let (inner, after) = others.split_at(inside);
        out.push_str(&text[at..site.range.start]);
        out.push_str(&rewritten(text, site, inner));
        (at, rest) = (site.range.end, after);
    }
    out.push_str(&text[at..range.end]);
    out
}

fn within(inner: &Range, outer: &Range) -> bool {
    inner.start < outer.end && inner.end <= outer.end
}

fn rewritten(text: &str, site: &Site, inner: &[Site]) -> String {
    let original = || part(text, site.range.clone(), inner);
    let of = |range: Range| &text[range];
    let Range { start, end } = site.range;
    match &site.kind {
        Kind::Return(values) => {
            values.iter().map(|(id, value)| format!("if {} {{ return {value}; }} ", switch(*id))).collect::<String>()
        }
        Kind::Binary { operator, others, assigns } => {
            let (left, right) = (of(start..operator.start), of(operator.end..end));
            let other = |(id, other): &(u32, String)| format!("if {} {{ {left}{other}{right} }} else ", switch(*id));
            let text = format!("{}{{ {} }}", others.iter().map(other).collect::<String>(), original());
            if *assigns { text } else { format!("({text})") }
        }
        Kind::Unary { operator, id } => {
            format!("(if {} {{ {} }} else {{ {} }})", switch(*id), of(operator.end..end), original())
        }
        Kind::Arm(id) => format!(" if !{}", switch(*id)),
        Kind::Guard { always, never, absent } => {
            let mut guard = format!("({})", original());
            if let Some(id) = never {
                guard = format!("(!{} && {guard})", switch(*id));
            }
            if let Some(id) = always {
                guard = format!("({} || {guard})", switch(*id));
            }
            match absent {
                Some(id) => format!("!{} && {guard}", switch(*id)),
                None => guard,
            }
        }
        Kind::Field { id, name, rest, shorthand } => {
            let label = if *shorthand { format!("{name}: ") } else { String::new() };
            format!("{label}if {} {{ ({}).{name} }} else {{ {} }}", switch(*id), of(rest.clone()), original())
        }
    }
}

/// The expression that is true while mutant `id` is wanted.
pub(super) fn switch(id: u32) -> String {
    format!("{SWITCH}{id})")
}

/// What a switch begins with.
pub(super) const SWITCH: &str = "crate::mutant_switch::on(";

/// The module that has the switches, and what makes more of the mutants compile: a check that finds nothing wrong.
pub(super) const MODULE: &str = r#"
#[doc(hidden)]
#[allow(missing_docs, clippy::all)]
pub mod mutant_switch {
    use std::{
        fs::File,
        io::Write as _,
        sync::{
            OnceLock,
            atomic::{AtomicBool, Ordering},
        },
    };

    static WANTED: OnceLock<u32> = OnceLock::new();
    static SEEN: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];
    static REACHED: OnceLock<File> = OnceLock::new();

    pub fn on(id: u32) -> bool {
        let wanted = *WANTED.get_or_init(|| std::env::var("MUTANT").map_or(0, |id| id.parse().expect("a number")));
        if wanted == u32::MAX && !SEEN[id as usize].swap(true, Ordering::Relaxed) {
            let open = || File::create(std::env::var("MUTANT_REACHED").expect("a file")).expect("it can be made");
            let mut file = REACHED.get_or_init(open);
            file.write_all(format!("{id}\n").as_bytes()).expect("it can be written");
        }
        wanted == id
    }
}

impl<T> From<T> for checks::Finding<T> {
    fn from(value: T) -> Self {
        Self::new(value, "")
    }
}
"#;
