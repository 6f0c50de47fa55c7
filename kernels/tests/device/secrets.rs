//! What is computed from a secret is found and forgotten, and nothing else.

use terrarium_kernels::{Copy, DType, Device, Fill, MatMul};

use crate::bench::Bench;

#[test]
fn a_secret_spreads_through_operations_and_views_and_is_forgotten_whole() {
    let mut d = Bench::device();
    let mut tensor = |shape: &[u32]| d.alloc(DType::F32, shape).unwrap();
    let (secret, weight, product) = (tensor(&[2, 2]), tensor(&[2, 2]), tensor(&[2, 2]));
    let (copy, constant, later, out) = (tensor(&[4]), tensor(&[4]), tensor(&[4]), tensor(&[2]));
    let window = d.view(copy, 1, &[2]).unwrap();
    let square = d.view(copy, 0, &[2, 2]).unwrap();
    for id in [secret, weight] {
        d.upload_f32(id, 0, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    }
    d.mark_secret(secret).unwrap();
    let matmul = MatMul {
        a: square,
        b: weight,
        out: product,
        trans_a: false,
        trans_b: false,
        alpha: 1.0,
        accumulate: false,
    };
    let graph = d
        .prepare(vec![
            Copy { src: secret, dst: copy }.into(),
            matmul.into(),
            Copy { src: window, dst: out }.into(),
            Fill { dst: constant, value: 7.0 }.into(),
        ])
        .unwrap();
    d.run(&graph).unwrap();
    let read = |d: &Device, id, n: usize| {
        let mut values = vec![f32::NAN; n];
        d.download_f32(id, 0, &mut values).unwrap();
        values
    };
    assert_eq!(read(&d, product, 4), [7.0, 10.0, 15.0, 22.0]);
    assert_eq!(read(&d, out, 2), [2.0, 3.0]);
    d.forget_secrets();
    for (id, n) in [(secret, 4), (copy, 4), (product, 4), (out, 2)] {
        assert_eq!(read(&d, id, n), vec![0.0; n]);
    }
    assert_eq!(read(&d, weight, 4), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read(&d, constant, 4), [7.0; 4]);
    // Forgotten is no longer secret: what is computed now stays.
    d.upload_f32(secret, 0, &[5.0; 4]).unwrap();
    let graph = d.prepare(vec![Copy { src: secret, dst: later }.into()]).unwrap();
    d.run(&graph).unwrap();
    d.forget_secrets();
    assert_eq!(read(&d, later, 4), [5.0; 4]);
}
