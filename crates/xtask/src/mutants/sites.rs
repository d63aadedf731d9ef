//! Where mutants go: finds the syntax that each one changes.

use std::collections::BTreeMap;

use proc_macro2::Span;
use syn::{
    BinOp, Block, Expr, ReturnType, Signature, Type,
    spanned::Spanned as _,
    visit::{self, Visit},
};

use super::list::{Genre, Mutant};

/// Bytes of a file.
pub(super) type Range = std::ops::Range<usize>;

/// A place in a file with the mutants that are switched there.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) range: Range,
    pub(super) kind: Kind,
}

/// How the text at a site is rewritten.
#[derive(Debug)]
pub(super) enum Kind {
    /// `return` with these values, before the first statement of a function.
    Return(Vec<(u32, String)>),
    /// Other operators in the place of the one at `operator`.
    Binary { operator: Range, others: Vec<(u32, String)>, assigns: bool },
    /// Without the operator at `operator`.
    Unary { operator: Range, id: u32 },
    /// An arm without a guard that may be absent: at the end of its pattern.
    Arm(u32),
    /// A guard that may be always or never true, of an arm that may be absent.
    Guard { always: Option<u32>, never: Option<u32>, absent: Option<u32> },
    /// A field that may be the one of the expression after `..`.
    Field { id: u32, name: String, rest: Range, shorthand: bool },
}

/// The sites of one file, and `const` keywords that must go, as a switch is not known when the code is compiled.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) sites: Vec<Site>,
    pub(super) constants: Vec<Range>,
    /// Mutants that cannot be behind a switch, and why.
    pub(super) apart: BTreeMap<u32, &'static str>,
}

/// Finds the sites of `mutants` in the file `text`. Functions named in `keep_const` stay constant.
pub(super) fn find(text: &str, mutants: &[&Mutant], keep_const: &[String]) -> syn::Result<Found> {
    let mut left = BTreeMap::new();
    for mutant in mutants {
        left.entry((mutant.genre, mutant.start(text))).or_insert_with(Vec::new).push(*mutant);
    }
    let mut finder = Finder { left, keep_const, found: Found::default(), constant: false };
    finder.visit_file(&syn::parse_file(text)?);
    for mutant in finder.left.into_values().flatten() {
        finder.found.apart.insert(mutant.id, "its place was not found");
    }
    // Outer before inner, and what is put in before an expression before that expression.
    let rank = |kind: &Kind| match kind {
        Kind::Return(_) | Kind::Arm(_) => 0,
        Kind::Guard { .. } | Kind::Field { .. } => 1,
        Kind::Binary { .. } | Kind::Unary { .. } => 2,
    };
    finder.found.sites.sort_by_key(|site| {
        let inserted = site.range.is_empty();
        (site.range.start, !inserted, std::cmp::Reverse(site.range.end), rank(&site.kind))
    });
    Ok(finder.found)
}

struct Finder<'m> {
    left: BTreeMap<(Genre, usize), Vec<&'m Mutant>>,
    keep_const: &'m [String],
    found: Found,
    /// In something that the compiler evaluates.
    constant: bool,
}

impl<'m> Finder<'m> {
    fn take(&mut self, genre: Genre, at: usize) -> Vec<&'m Mutant> {
        let found = self.left.remove(&(genre, at)).unwrap_or_default();
        if !self.constant {
            return found;
        }
        self.found.apart.extend(found.iter().map(|mutant| (mutant.id, "evaluated by the compiler")));
        Vec::new()
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.constant, true);
        visit(self);
        self.constant = outer;
    }

    fn function(&mut self, signature: &Signature, block: Option<&Block>, visit: impl FnOnce(&mut Self)) {
        let kept = signature.constness.is_some() && self.keep_const.contains(&signature.ident.to_string());
        if let (Some(constness), false) = (&signature.constness, kept) {
            self.found.constants.push(bytes(constness.span()));
        }
        let outer = std::mem::replace(&mut self.constant, kept);
        if let Some(first) = block.and_then(|block| block.stmts.first()) {
            self.body(signature, bytes(first.span()).start);
        }
        visit(self);
        self.constant = outer;
    }

    fn body(&mut self, signature: &Signature, start: usize) {
        let found = self.take(Genre::FnValue, start);
        if matches!(&signature.output, ReturnType::Type(_, kind) if matches!(**kind, Type::ImplTrait(_))) {
            self.found.apart.extend(found.iter().map(|mutant| (mutant.id, "of another type than the function's own")));
        } else if !found.is_empty() {
            let kind = Kind::Return(found.into_iter().map(|mutant| (mutant.id, mutant.replacement.clone())).collect());
            self.found.sites.push(Site { range: start..start, kind });
        }
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
        self.function(&item.sig, Some(&item.block), |finder| visit::visit_item_fn(finder, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
        self.function(&item.sig, Some(&item.block), |finder| visit::visit_impl_item_fn(finder, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
        self.function(&item.sig, item.default.as_ref(), |finder| visit::visit_trait_item_fn(finder, item));
    }

    fn visit_item_const(&mut self, item: &'a syn::ItemConst) {
        self.constant(|finder| visit::visit_item_const(finder, item));
    }

    fn visit_impl_item_const(&mut self, item: &'a syn::ImplItemConst) {
        self.constant(|finder| visit::visit_impl_item_const(finder, item));
    }

    fn visit_item_static(&mut self, item: &'a syn::ItemStatic) {
        self.constant(|finder| visit::visit_item_static(finder, item));
    }

    fn visit_type(&mut self, kind: &'a Type) {
        self.constant(|finder| visit::visit_type(finder, kind));
    }

    fn visit_generic_argument(&mut self, argument: &'a syn::GenericArgument) {
        self.constant(|finder| visit::visit_generic_argument(finder, argument));
    }

    fn visit_expr_const(&mut self, block: &'a syn::ExprConst) {
        self.constant(|finder| visit::visit_expr_const(finder, block));
    }

    fn visit_expr_repeat(&mut self, repeat: &'a syn::ExprRepeat) {
        self.visit_expr(&repeat.expr);
        self.constant(|finder| finder.visit_expr(&repeat.len));
    }

    fn visit_pat(&mut self, pattern: &'a syn::Pat) {
        self.constant(|finder| visit::visit_pat(finder, pattern));
    }

    fn visit_expr_binary(&mut self, binary: &'a syn::ExprBinary) {
        let operator = bytes(binary.op.span());
        let found = self.take(Genre::BinaryOperator, operator.start);
        if binds(&binary.left) || binds(&binary.right) {
            // `a || let b = c` is no expression, and neither can `a && let b = c` be put into a block.
            self.found.apart.extend(found.iter().map(|mutant| (mutant.id, "in a chain with let")));
        } else if !found.is_empty() {
            let others = found.into_iter().map(|mutant| (mutant.id, mutant.replacement.clone())).collect();
            let kind = Kind::Binary { operator, others, assigns: assigns(&binary.op) };
            self.found.sites.push(Site { range: bytes(binary.span()), kind });
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'a syn::ExprUnary) {
        let operator = bytes(unary.op.span());
        for mutant in self.take(Genre::UnaryOperator, operator.start) {
            let kind = Kind::Unary { operator: operator.clone(), id: mutant.id };
            self.found.sites.push(Site { range: bytes(unary.span()), kind });
        }
        visit::visit_expr_unary(self, unary);
    }

    fn visit_expr_struct(&mut self, literal: &'a syn::ExprStruct) {
        for field in &literal.fields {
            let mutants = self.take(Genre::StructField, bytes(field.span()).start);
            for (mutant, rest) in mutants.into_iter().zip(literal.rest.iter().map(|rest| bytes(rest.span()))) {
                let name = match &field.member {
                    syn::Member::Named(name) => name.to_string(),
                    syn::Member::Unnamed(index) => index.index.to_string(),
                };
                let kind = Kind::Field { id: mutant.id, name, rest, shorthand: field.colon_token.is_none() };
                self.found.sites.push(Site { range: bytes(field.expr.span()), kind });
            }
        }
        visit::visit_expr_struct(self, literal);
    }

    fn visit_arm(&mut self, arm: &'a syn::Arm) {
        let absent = self.take(Genre::MatchArm, bytes(arm.span()).start).first().map(|mutant| mutant.id);
        if let Some((_, guard)) = &arm.guard {
            let range = bytes(guard.span());
            let found = self.take(Genre::MatchArmGuard, range.start);
            let of = |value: &str| found.iter().find(|mutant| mutant.replacement == value).map(|mutant| mutant.id);
            let (always, never) = (of("true"), of("false"));
            if always.or(never).or(absent).is_some() {
                self.found.sites.push(Site { range, kind: Kind::Guard { always, never, absent } });
            }
        } else if let Some(id) = absent {
            let end = bytes(arm.pat.span()).end;
            self.found.sites.push(Site { range: end..end, kind: Kind::Arm(id) });
        }
        visit::visit_arm(self, arm);
    }
}

fn bytes(span: Span) -> Range {
    span.byte_range()
}

/// Whether the expression is a `let`, or a chain with one.
fn binds(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

fn assigns(operator: &BinOp) -> bool {
    use BinOp::{
        AddAssign, BitAndAssign, BitOrAssign, BitXorAssign, DivAssign, MulAssign, RemAssign, ShlAssign, ShrAssign, SubAssign,
    };
    let arithmetic = matches!(operator, AddAssign(_) | SubAssign(_) | MulAssign(_) | DivAssign(_) | RemAssign(_));
    arithmetic || matches!(operator, BitAndAssign(_) | BitOrAssign(_) | BitXorAssign(_) | ShlAssign(_) | ShrAssign(_))
}
