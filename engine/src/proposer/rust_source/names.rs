//! Which names a source declares for itself, and which it shares with others.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::BTreeSet;
use syn::visit::{self, Visit};

#[derive(Default)]
pub(super) struct Names {
    /// Functions, constants, parameters, variables.
    pub declared: BTreeSet<String>,
    /// Fields, methods, parts of paths: these mean something elsewhere.
    pub fixed: BTreeSet<String>,
}

impl Names {
    /// Also inside macros, where there is no syntax tree: what stands beside
    /// a `.` or a `::`.
    pub fn visit_tokens(&mut self, tokens: TokenStream) {
        let mut pending = vec![tokens];
        while let Some(stream) = pending.pop() {
            let (mut after, mut before): (bool, Option<String>) = (false, None);
            let mut dots = 0;
            for token in stream {
                match token {
                    TokenTree::Punct(punct) => {
                        let c = punct.as_char();
                        dots = if c == '.' { dots + 1 } else { 0 };
                        if c == ':' && punct.spacing() == proc_macro2::Spacing::Joint {
                            self.fixed.extend(before.take());
                        }
                        // `..` is a range, `: ` a type.
                        after = dots == 1 || (c == ':' && after_colon(&before, after));
                        if c == ':' && punct.spacing() == proc_macro2::Spacing::Joint {
                            after = true;
                        }
                        before = None;
                    }
                    TokenTree::Ident(name) => {
                        let name = name.to_string();
                        if after {
                            self.fixed.insert(name.clone());
                        }
                        before = Some(name);
                        (after, dots) = (false, 0);
                    }
                    TokenTree::Group(group) => {
                        pending.push(group.stream());
                        (after, before, dots) = (false, None, 0);
                    }
                    TokenTree::Literal(_) => (after, before, dots) = (false, None, 0),
                }
            }
        }
    }
}

/// The second `:` of a `::` keeps what the first one began.
fn after_colon(before: &Option<String>, after: bool) -> bool {
    before.is_none() && after
}

impl<'ast> Visit<'ast> for Names {
    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        let name = pattern.ident.to_string();
        // Without its type, a capital may be a variant or a constant.
        if name.starts_with(|c: char| c.is_lowercase() || c == '_') {
            self.declared.insert(name);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.declared.insert(item.sig.ident.to_string());
        visit::visit_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.declared.insert(item.ident.to_string());
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.declared.insert(item.ident.to_string());
        visit::visit_item_static(self, item);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        self.fixed.extend(field.ident.as_ref().map(ToString::to_string));
        visit::visit_field(self, field);
    }

    fn visit_member(&mut self, member: &'ast syn::Member) {
        if let syn::Member::Named(name) = member {
            self.fixed.insert(name.to_string());
        }
    }
}
