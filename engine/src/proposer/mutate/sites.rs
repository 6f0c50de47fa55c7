//! The places of a syntax tree that can be mutated, by byte range.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::BTreeSet;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, Lit, Stmt, UnOp};

/// What can be done at a site.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A numeric literal; whether it is the value of a `const` or `static`.
    Number { constant: bool },
    /// `true` or `false`.
    Bool,
    /// A binary operator that is no comparison.
    Operator,
    /// A comparison operator.
    Comparison,
    /// The name of a called method, with its number of arguments.
    Method { arguments: usize },
    /// The condition of an `if`.
    Condition,
    /// A statement: the block that it is in, its number there.
    Statement { block: usize, number: usize, is_let: bool, binds: BTreeSet<String>, uses: BTreeSet<String> },
    /// An expression, with what it has in common with those that may stand
    /// in its place.
    Expression { family: String },
}

/// One place.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub kind: Kind,
    /// Bytes of what would be replaced.
    pub range: Range<usize>,
    /// Bytes of the statement or item around it.
    pub context: Range<usize>,
    /// Number of the function around it; names mean the same only within one.
    pub function: usize,
}

/// All sites of the file, in source order of their discovery.
pub(super) fn collect(file: &syn::File) -> Vec<Site> {
    let mut collector = Collector::default();
    collector.visit_file(file);
    collector.sites
}

#[derive(Default)]
struct Collector {
    sites: Vec<Site>,
    context: Range<usize>,
    function: usize,
    functions: usize,
    blocks: usize,
    constant: bool,
    /// Inside the declaration of a knob, whose numbers are the knob proposer's.
    knob: bool,
}

fn identifiers(tokens: TokenStream, into: &mut BTreeSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => drop(into.insert(name.to_string())),
            TokenTree::Group(group) => identifiers(group.stream(), into),
            _ => {}
        }
    }
}

impl Collector {
    fn add(&mut self, kind: Kind, range: Range<usize>) {
        if !range.is_empty() {
            self.sites.push(Site { kind, range, context: self.context.clone(), function: self.function });
        }
    }

    fn within(&mut self, context: Range<usize>, visit: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.context, context);
        visit(self);
        self.context = outer;
    }

    fn in_function(&mut self, visit: impl FnOnce(&mut Self)) {
        self.functions += 1;
        let outer = std::mem::replace(&mut self.function, self.functions);
        visit(self);
        self.function = outer;
    }

    fn numbers_in(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Literal(literal) => self.visit_lit(&Lit::new(literal)),
                TokenTree::Group(group) => self.numbers_in(group.stream()),
                _ => {}
            }
        }
    }
}

fn family(expression: &Expr) -> Option<String> {
    Some(match expression {
        Expr::Binary(_) => "binary".into(),
        Expr::MethodCall(call) => format!("method {}", call.args.len()),
        Expr::Call(call) => format!("call {}", call.func.to_token_stream()),
        Expr::Path(path) if path.path.get_ident().is_some_and(|i| i != "self") => "name".into(),
        Expr::Field(_) => "field".into(),
        Expr::Index(_) => "index".into(),
        Expr::Unary(unary) if !matches!(unary.op, UnOp::Deref(_)) => "unary".into(),
        _ => return None,
    })
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}

    fn visit_item(&mut self, item: &'ast syn::Item) {
        self.within(item.span().byte_range(), |this| visit::visit_item(this, item));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.in_function(|this| visit::visit_item_fn(this, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(item.span().byte_range(), |this| {
            this.in_function(|this| visit::visit_impl_item_fn(this, item));
        });
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant = true;
        self.visit_expr(&item.expr);
        self.constant = false;
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constant = true;
        self.visit_expr(&item.expr);
        self.constant = false;
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.blocks += 1;
        let id = self.blocks;
        for (number, statement) in block.stmts.iter().enumerate() {
            let range = statement.span().byte_range();
            let movable = match statement {
                Stmt::Expr(_, semicolon) => semicolon.is_some(),
                Stmt::Local(_) => true,
                Stmt::Macro(call) => call.semi_token.is_some(),
                Stmt::Item(_) => false,
            };
            self.within(range.clone(), |this| {
                if movable {
                    let (mut binds, mut uses) = (BTreeSet::new(), BTreeSet::new());
                    identifiers(statement.to_token_stream(), &mut uses);
                    let is_let = if let Stmt::Local(local) = statement {
                        identifiers(local.pat.to_token_stream(), &mut binds);
                        uses = BTreeSet::new();
                        if let Some(init) = &local.init {
                            identifiers(init.expr.to_token_stream(), &mut uses);
                            if let Some((_, diverge)) = &init.diverge {
                                identifiers(diverge.to_token_stream(), &mut uses);
                            }
                        }
                        true
                    } else {
                        false
                    };
                    this.add(Kind::Statement { block: id, number, is_let, binds, uses }, range);
                }
                this.visit_stmt(statement);
            });
        }
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        if !self.knob
            && let Some(family) = family(expression)
        {
            self.add(Kind::Expression { family }, expression.span().byte_range());
        }
        visit::visit_expr(self, expression);
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        let outer = self.knob;
        if let Expr::Path(path) = &*call.func {
            self.knob |= path.path.segments.first().is_some_and(|s| s.ident == "knobs");
        } else {
            self.visit_expr(&call.func);
        }
        call.args.iter().for_each(|argument| self.visit_expr(argument));
        self.knob = outer;
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.add(Kind::Method { arguments: call.args.len() }, call.method.span().byte_range());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_if(&mut self, branch: &'ast syn::ExprIf) {
        let mut bare = true;
        let mut rest = vec![&*branch.cond];
        while let Some(part) = rest.pop() {
            match part {
                Expr::Let(_) => bare = false,
                Expr::Binary(b) if matches!(b.op, BinOp::And(_)) => rest.extend([&*b.left, &*b.right]),
                _ => {}
            }
        }
        if bare {
            self.add(Kind::Condition, branch.cond.span().byte_range());
        }
        visit::visit_expr_if(self, branch);
    }

    fn visit_bin_op(&mut self, op: &'ast BinOp) {
        let kind = match op {
            BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) | BinOp::Eq(_) | BinOp::Ne(_) => {
                Kind::Comparison
            }
            _ => Kind::Operator,
        };
        self.add(kind, op.span().byte_range());
    }

    fn visit_lit(&mut self, literal: &'ast Lit) {
        let range = literal.span().byte_range();
        match literal {
            Lit::Int(_) | Lit::Float(_) if !self.knob => {
                self.add(Kind::Number { constant: self.constant }, range)
            }
            Lit::Bool(_) if !self.knob => self.add(Kind::Bool, range),
            _ => {}
        }
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // Of macros only the numbers: `vec![0.5; n]`. What is printed or
        // asserted is not worth changing.
        if call.path.is_ident("vec") {
            self.numbers_in(call.tokens.clone());
        }
    }
}
