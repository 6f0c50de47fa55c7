//! What is emitted, without a card: its form, that equal expressions have one
//! text, and that the assembler takes it, where `make cubins` installed one.
//! What the text computes is tested in the simulator (`tests/device/rows.rs`).

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Text, emit};
use crate::op::{BinaryOp, DType, Layout, Node, Operand, Reduction, RowMap, Store, UnaryOp};
use crate::{TensorId, row_kernel};

const UNARY: [UnaryOp; 13] = [
    UnaryOp::Negate,
    UnaryOp::Absolute,
    UnaryOp::Reciprocal,
    UnaryOp::Square,
    UnaryOp::SquareRoot,
    UnaryOp::ReciprocalSquareRoot,
    UnaryOp::Exponential,
    UnaryOp::Logarithm,
    UnaryOp::Tanh,
    UnaryOp::Sigmoid,
    UnaryOp::Relu,
    UnaryOp::Step,
    UnaryOp::Floor,
];
const BINARY: [BinaryOp; 7] = [
    BinaryOp::Add,
    BinaryOp::Subtract,
    BinaryOp::Multiply,
    BinaryOp::Divide,
    BinaryOp::Minimum,
    BinaryOp::Maximum,
    BinaryOp::LessThan,
];

/// A kernel over five inputs, one of each layout and another `Element` one.
fn kernel(rows: u32, cols: u32, nodes: Vec<Node>, stores: &[(u32, Layout)]) -> Option<Text> {
    kernel_of(DType::F32, rows, cols, nodes, stores)
}

/// As [`kernel`], whose `Element` operands are of this type.
fn kernel_of(dtype: DType, rows: u32, cols: u32, nodes: Vec<Node>, stores: &[(u32, Layout)]) -> Option<Text> {
    let tensor = TensorId::from_bits(1 << 32);
    let layouts = [Layout::Element, Layout::PerRow, Layout::PerCol, Layout::Scalar, Layout::Element];
    let op = RowMap {
        rows,
        cols,
        inputs: layouts.map(|layout| Operand { tensor, layout }).into(),
        nodes,
        stores: stores.iter().map(|&(node, layout)| Store { node, tensor, layout }).collect(),
    };
    emit(&row_kernel::compile(&op, |_| dtype).unwrap())
}

/// Inputs 0 to 4, a constant, every function of them, and sums.
fn everything() -> Vec<Node> {
    let mut nodes: Vec<Node> = (0..5).map(Node::Input).collect();
    nodes.extend([Node::Constant(0.3), Node::ColIndex]);
    nodes.extend(UNARY.map(|op| Node::Unary { op, a: 0 }));
    nodes.extend(BINARY.map(|op| Node::Binary { op, a: 2, b: 1 }));
    nodes.push(Node::Select { condition: 4, then: 6, otherwise: 3 });
    let all = nodes.len() as u32;
    for a in 7..all {
        let last = nodes.len() as u32 - 1;
        nodes.push(Node::Binary { op: BinaryOp::Add, a: last, b: a });
    }
    let sum = nodes.len() as u32 - 1;
    nodes.push(Node::Reduce { op: Reduction::Sum, a: sum });
    nodes.push(Node::Reduce { op: Reduction::Maximum, a: sum });
    nodes.push(Node::Binary { op: BinaryOp::Multiply, a: sum + 1, b: sum + 2 });
    nodes.push(Node::Binary { op: BinaryOp::Subtract, a: 0, b: sum + 3 });
    nodes
}

fn texts() -> Vec<String> {
    [DType::F32, DType::Bf16].into_iter().flat_map(texts_of).collect()
}

fn texts_of(dtype: DType) -> Vec<String> {
    let kernel = |rows, cols, nodes, stores: &[_]| kernel_of(dtype, rows, cols, nodes, stores);
    let nodes = everything();
    let last = nodes.len() as u32 - 1;
    let without_sums = nodes[..nodes.len() - 4].to_vec();
    let short = vec![Node::Input(0), Node::Input(4), Node::Binary { op: BinaryOp::Multiply, a: 0, b: 1 }];
    let all = [
        kernel(7, 500, nodes.clone(), &[(last, Layout::Element), (last - 1, Layout::PerRow)]),
        kernel(7, 5000, nodes, &[(last, Layout::Element), (last - 3, Layout::PerRow)]),
        kernel(7, 5000, without_sums, &[(last - 4, Layout::Element)]),
        kernel(300, 400, short.clone(), &[(2, Layout::Element)]),
        kernel(3, 40, short, &[(2, Layout::Element), (0, Layout::Element)]),
    ];
    all.map(|text| text.unwrap().text).into()
}

#[test]
fn the_text_depends_on_the_expression_alone() {
    let square = |rows, cols| {
        let nodes = vec![Node::Input(0), Node::Unary { op: UnaryOp::Square, a: 0 }];
        kernel(rows, cols, nodes, &[(1, Layout::Element)]).unwrap().text
    };
    assert_eq!(square(100, 5000), square(7, 400_000));
    assert!(square(1, 64).starts_with(".version 8.0\n.target sm_80\n"));
}

#[test]
fn bfloat16_is_widened_where_it_is_loaded_and_rounded_where_it_is_stored() {
    let nodes = vec![Node::Input(0), Node::Input(2), Node::Binary { op: BinaryOp::Add, a: 0, b: 1 }];
    let text = kernel_of(DType::Bf16, 7, 64, nodes, &[(2, Layout::Element)]).unwrap().text;
    // Four columns a lane; the second input is per column, and so float32.
    for (what, times) in
        [("ld.global.u16", 4), ("ld.global.f32", 4), ("cvt.rn.bf16x2.f32", 4), ("st.global.b16", 4)]
    {
        assert_eq!(text.matches(what).count(), times, "{what} in {text}");
    }
    assert!(!text.contains("st.global.f32"), "{text}");
}

#[test]
fn what_has_no_text_is_left_to_the_interpreter() {
    let one =
        |node| kernel(8, 64, vec![Node::Input(0), Node::Input(4), node], &[(2, Layout::Element)]).is_none();
    assert!(one(Node::Unary { op: UnaryOp::Sine, a: 0 }));
    assert!(one(Node::Unary { op: UnaryOp::Cosine, a: 0 }));
    assert!(one(Node::Binary { op: BinaryOp::Power, a: 0, b: 1 }));
    assert!(!one(Node::Unary { op: UnaryOp::Tanh, a: 0 }));
    let narrow = vec![Node::Input(0), Node::Reduce { op: Reduction::Sum, a: 0 }];
    assert!(kernel(100, 31, narrow, &[(1, Layout::PerRow)]).is_none());
}

/// No register is used without having been declared, and each line is one
/// instruction: the form that the simulator and the assembler rely on.
#[test]
fn lines_are_whole() {
    for text in texts() {
        let body = text.split_once("{\n").unwrap().1;
        assert!(!text.contains(", ;") && !text.contains(", ,") && !text.contains("[]"), "{text}");
        for line in body.lines().filter(|line| line.starts_with("    ")) {
            assert!(line.ends_with(';'), "{line}");
        }
    }
}

fn assembler() -> Option<PathBuf> {
    if let Some(home) = std::env::var_os("CUDA_HOME") {
        return Some(Path::new(&home).join("bin/ptxas")).filter(|program| program.exists());
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cuda-compiler/lib");
    let pythons = std::fs::read_dir(library).ok()?.flatten().map(|entry| entry.path());
    pythons.map(|python| python.join("site-packages/nvidia/cu13/bin/ptxas")).find(|program| program.exists())
}

#[test]
fn the_assembler_takes_it() {
    let Some(assembler) = assembler() else {
        eprintln!("skipped: no ptxas; `make cubins` installs it");
        return;
    };
    for (at, text) in texts().into_iter().enumerate() {
        let stem = std::env::temp_dir().join(format!("terrarium-row-{}-{at}", std::process::id()));
        let (source, target) = (stem.with_extension("ptx"), stem.with_extension("cubin"));
        std::fs::write(&source, &text).unwrap();
        for architecture in ["sm_80", "sm_90a"] {
            let output = Command::new(&assembler)
                .arg(format!("-arch={architecture}"))
                .args(["-v", "-o"])
                .args([&target, &source])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}\n{text}");
            assert!(said.contains(" 0 bytes spill stores"), "registers spill: {said}");
        }
        for file in [source, target] {
            std::fs::remove_file(file).unwrap();
        }
    }
}
