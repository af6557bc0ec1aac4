//! Puts mutants into a source file, each behind a switch: an expression becomes a `match` on the number of the mutant, with the changed
//! text in an arm for each mutant and what was there in the last one.
//!
//! Each arm stands on a line that names its mutant, so that an error of the compiler tells which one cannot be built. What is evaluated by
//! the compiler, such as constants, cannot hold a switch.

use crate::mutant::{Genre, Mutant};
use anyhow::Result;
use proc_macro2::Span;
use std::collections::HashMap;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Block, Expr, Member};

/// A mutant with its number.
pub(crate) type Numbered<'m> = (usize, &'m Mutant);

/// A stretch of the file that holds mutants. The lowest number stands for all of them: whoever reaches one reaches all.
struct Site {
    bytes: Range<usize>,
    kind: Kind,
    /// Each mutant, and the text that it puts in place.
    variants: Vec<(usize, String)>,
}

enum Kind {
    /// In place of an expression.
    Expression,
    /// In place of the expression of a field that is written as its name alone.
    Shorthand(String),
    /// Before a function's first statement: it returns the changed value.
    Return,
    /// Behind the pattern of a match arm: the arm is taken unless the mutant is there.
    Guard,
}

/// `text` with switches for `mutants`, and the site of each that found a place.
pub(crate) fn weave(text: &str, mutants: &[Numbered<'_>]) -> Result<(String, HashMap<usize, usize>)> {
    let file = syn::parse_file(text)?;
    let mut starts: HashMap<(usize, Genre), Vec<Numbered<'_>>> = HashMap::new();
    for (number, mutant) in mutants {
        starts.entry((mutant.span.bytes(text).start, mutant.genre)).or_default().push((*number, mutant));
    }
    let mut weaver = Weaver { text, starts, sites: Vec::new(), is_const: false };
    weaver.visit_file(&file);
    let mut sites = weaver.sites;
    // The outer one first. Those of one stretch stay as they were found, which is from the outside too.
    let is_inserted = |site: &Site| matches!(site.kind, Kind::Return | Kind::Guard);
    sites.sort_by_key(|site| (site.bytes.start, !is_inserted(site), std::cmp::Reverse(site.bytes.end)));
    let places = sites.iter().flat_map(|site| site.variants.iter().map(|(number, _)| (*number, site.number())));
    Ok((render(text, &sites, 0..text.len()), places.collect()))
}

impl Site {
    fn number(&self) -> usize {
        self.variants[0].0
    }
}

/// The text of `bytes` with all `sites` that lie in it.
fn render(text: &str, sites: &[Site], bytes: Range<usize>) -> String {
    let mut out = String::new();
    let mut at = bytes.start;
    for (index, site) in sites.iter().enumerate() {
        if site.bytes.start < at || site.bytes.end > bytes.end {
            continue; // within one that was rendered, or around this one
        }
        out.push_str(&text[at..site.bytes.start]);
        at = site.bytes.end;
        let switch = format!("crate::mutant({})", site.number());
        match &site.kind {
            Kind::Return => {
                for (number, value) in &site.variants {
                    out.push_str(&format!("\nif {switch} == {number} {{ return {value}; }} /*mutant {number}*/"));
                }
                out.push('\n');
            }
            Kind::Guard => out.push_str(&format!(" if {switch} != {0} /*mutant {0}*/\n", site.number())),
            Kind::Expression | Kind::Shorthand(_) => {
                if let Kind::Shorthand(name) = &site.kind {
                    out.push_str(&format!("{name}: "));
                }
                out.push_str(&format!("(match {switch} {{\n"));
                for (number, value) in &site.variants {
                    out.push_str(&format!("{number} => {{ {value} }} /*mutant {number}*/\n"));
                }
                let inner = render(text, &sites[index + 1..], site.bytes.clone());
                out.push_str(&format!("_ => {{ {inner} }} }})"));
            }
        }
    }
    out.push_str(&text[at..bytes.end]);
    out
}

struct Weaver<'m> {
    text: &'m str,
    /// The mutants by where they start.
    starts: HashMap<(usize, Genre), Vec<Numbered<'m>>>,
    sites: Vec<Site>,
    /// The compiler evaluates this.
    is_const: bool,
}

fn bytes(span: Span) -> Range<usize> {
    span.byte_range()
}

/// On one line, without comments at its lines' ends.
fn on_one_line(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join(" ")
}

impl Weaver<'_> {
    fn starting_at(&self, start: usize, genre: Genre) -> Vec<(usize, String)> {
        let found = self.starts.get(&(start, genre)).into_iter().flatten();
        found.map(|(number, mutant)| (*number, mutant.replacement.clone())).collect()
    }

    fn push(&mut self, bytes: Range<usize>, kind: Kind, variants: Vec<(usize, String)>) {
        if !variants.is_empty() && !self.is_const {
            self.sites.push(Site { bytes, kind, variants });
        }
    }

    fn within_const(&mut self, is_const: bool, visit: impl FnOnce(&mut Self)) {
        let before = self.is_const;
        self.is_const |= is_const;
        visit(self);
        self.is_const = before;
    }

    fn function(&mut self, signature: &syn::Signature, block: &Block) {
        // A value of another type cannot stand in for a type that is not named.
        let is_named =
            !matches!(&signature.output, syn::ReturnType::Type(_, of) if matches!(**of, syn::Type::ImplTrait(_)));
        if let Some(first) = block.stmts.first().filter(|_| is_named) {
            let start = bytes(first.span()).start;
            let variants = self.starting_at(start, Genre::FnValue);
            self.push(start..start, Kind::Return, variants);
        }
    }

    /// The whole of `outer` with the stretch `inner` replaced.
    fn replaced(&self, outer: &Range<usize>, inner: &Range<usize>, by: &str) -> String {
        on_one_line(&format!("{} {by} {}", &self.text[outer.start..inner.start], &self.text[inner.end..outer.end]))
    }

    /// Operators of one expression without parentheses: a replacement may change what belongs to what, so the whole is replaced.
    fn operators(&self, expr: &Expr, whole: &Range<usize>, variants: &mut Vec<(usize, String)>) {
        if let Expr::Binary(binary) = expr {
            let operator = bytes(binary.op.span());
            for (number, replacement) in self.starting_at(operator.start, Genre::BinaryOperator) {
                variants.push((number, self.replaced(whole, &operator, &replacement)));
            }
            self.operators(&binary.left, whole, variants);
            self.operators(&binary.right, whole, variants);
        }
    }

    fn operands(&mut self, expr: &Expr) {
        match expr {
            Expr::Binary(binary) => {
                self.operands(&binary.left);
                self.operands(&binary.right);
            }
            operand => self.visit_expr(operand),
        }
    }

    /// A field that is gone has the value that the base has.
    fn fields(&mut self, expr: &syn::ExprStruct, base: &Expr) {
        let base = on_one_line(&self.text[bytes(base.span())]);
        for field in &expr.fields {
            let Member::Named(name) = &field.member else { continue };
            let kind = if field.colon_token.is_some() { Kind::Expression } else { Kind::Shorthand(name.to_string()) };
            let mut variants = self.starting_at(bytes(field.span()).start, Genre::StructField);
            variants.iter_mut().for_each(|(_, value)| *value = format!("({base}).{name}"));
            self.push(bytes(field.expr.span()), kind, variants);
        }
    }

    fn arm(&mut self, arm: &syn::Arm) {
        let gone = self.starting_at(bytes(arm.span()).start, Genre::MatchArm);
        if let Some((_, guard)) = &arm.guard {
            let guard = bytes(guard.span());
            let mut variants = self.starting_at(guard.start, Genre::MatchArmGuard);
            variants.extend(gone.into_iter().map(|(number, _)| (number, "false".to_owned())));
            self.push(guard, Kind::Expression, variants);
        } else {
            let end = bytes(arm.pat.span()).end;
            self.push(end..end, Kind::Guard, gone);
        }
    }
}

impl<'ast> Visit<'ast> for Weaver<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.within_const(item.sig.constness.is_some(), |weaver| {
            weaver.function(&item.sig, &item.block);
            visit::visit_item_fn(weaver, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within_const(item.sig.constness.is_some(), |weaver| {
            weaver.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(weaver, item);
        });
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.within_const(true, |weaver| visit::visit_item_const(weaver, item));
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.within_const(true, |weaver| visit::visit_item_static(weaver, item));
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.within_const(true, |weaver| visit::visit_impl_item_const(weaver, item));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.within_const(true, |weaver| visit::visit_item_enum(weaver, item));
    }

    fn visit_type_array(&mut self, array: &'ast syn::TypeArray) {
        self.within_const(true, |weaver| visit::visit_type_array(weaver, array));
    }

    fn visit_pat(&mut self, pattern: &'ast syn::Pat) {
        self.within_const(true, |weaver| visit::visit_pat(weaver, pattern));
    }

    fn visit_expr_repeat(&mut self, array: &'ast syn::ExprRepeat) {
        self.visit_expr(&array.expr);
        self.within_const(true, |weaver| weaver.visit_expr(&array.len));
    }

    fn visit_expr(&mut self, expr: &'ast Expr) {
        let whole = bytes(expr.span());
        let mut variants = Vec::new();
        match expr {
            Expr::Binary(_) => {
                self.operators(expr, &whole, &mut variants);
                self.push(whole, Kind::Expression, variants);
                return self.operands(expr);
            }
            Expr::Unary(unary) => {
                let operator = bytes(unary.op.span());
                for (number, replacement) in self.starting_at(operator.start, Genre::UnaryOperator) {
                    variants.push((number, self.replaced(&whole, &operator, &replacement)));
                }
                self.push(whole, Kind::Expression, variants);
            }
            Expr::Struct(of) => {
                if let Some(base) = &of.rest {
                    self.fields(of, base);
                }
            }
            Expr::Match(of) => {
                let is_name = |name: &syn::Ident| name.to_string().starts_with(char::is_lowercase);
                let is_exhaustive = |arm: &syn::Arm| match &arm.pat {
                    syn::Pat::Wild(_) => true,
                    syn::Pat::Ident(bound) => is_name(&bound.ident),
                    _ => false,
                };
                // Without an arm for what is left, the compiler wants each of them, and takes none that has a condition.
                if of.arms.iter().any(|arm| arm.guard.is_none() && is_exhaustive(arm)) {
                    of.arms.iter().for_each(|arm| self.arm(arm));
                } else {
                    of.arms.iter().filter(|arm| arm.guard.is_some()).for_each(|arm| self.arm(arm));
                }
            }
            _ => {}
        }
        visit::visit_expr(self, expr);
    }
}
