//! A leaf's prepared weight: made once, by whoever comes first, and of the value that the leaf has.

use std::sync::mpsc;
use std::time::Duration;

use lowrank_kernels::{Rows, RowsMut};

use super::*;

fn leaf(rows: usize, width: usize) -> Leaf {
    let values: Vec<f32> = (0..rows * width).map(|i| (i % 7) as f32 - 3.0).collect();
    Leaf::frozen(Tensor::from_slice([rows, width], &values))
}

/// What is kept of a leaf in a floating type.
fn weight(leaf: &Leaf, compute: Compute) -> Arc<Weight> {
    match leaf.packed(compute) {
        Prepared::Float(weight) => weight,
        Prepared::Int8(_) => panic!("the leaf is multiplied in its own type"),
    }
}

/// A thread that waits for the others to pack its weight may be given another user of the same weight.
#[test]
fn several_threads_may_use_a_fresh_weight_first() {
    let (done, finished) = mpsc::channel();
    std::thread::spawn(move || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for _ in 0..20 {
            let leaf = leaf(1500, 1101);
            std::thread::scope(|scope| {
                for user in 0..8 {
                    let (pool, leaf) = (&pool, &leaf);
                    scope.spawn(move || {
                        // So that the first is packing, with the other thread's help, when the next arrive.
                        std::thread::sleep(Duration::from_micros(200 * user));
                        pool.install(|| weight(leaf, Compute::F32).bytes())
                    });
                }
            });
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(60)).expect("no thread waits for itself");
}

fn product(leaf: &Leaf) -> f32 {
    let mut y = [0.0];
    weight(leaf, Compute::F32).forward(Rows::dense(&[1.0, 2.0], 1, 2), None, RowsMut::dense(&mut y, 1, 1));
    y[0]
}

#[test]
fn a_weight_is_prepared_once_whether_it_is_trained_or_not() {
    let mut leaf = leaf(5, 3);
    let frozen = weight(&leaf, Compute::F32);
    assert!(Arc::ptr_eq(&frozen, &weight(&leaf.clone(), Compute::F32)));
    leaf.set_trainable(true);
    assert!(Arc::ptr_eq(&frozen, &weight(&leaf, Compute::F32)), "the value is the same");
    assert!(!Arc::ptr_eq(&frozen, &weight(&leaf, Compute::Bf16)), "another type");
}

#[test]
fn a_weight_follows_its_value() {
    let mut leaf = Leaf::trained(Tensor::from_slice([1, 2], &[1.0_f32, 10.0]));
    assert_eq!(product(&leaf), 21.0);
    let before = leaf.clone();
    leaf.value_mut()[0] = 5.0;
    assert_eq!(product(&leaf), 25.0);
    assert_eq!(product(&before), 21.0, "a clone keeps the value that it has");
    leaf.set_trainable(false);
    leaf.value_mut()[1] = 0.0;
    assert_eq!(product(&leaf), 5.0);
}

/// Whether its parts are packed or read where they are, and nothing is joined for that.
#[test]
fn a_leaf_in_parts_is_the_operand_that_a_whole_one_is() {
    let whole = leaf(70, 33);
    let parts = [0..40, 40..70].map(|rows| whole.value().rows(rows));
    let x: Vec<f32> = (0..5 * 33).map(|i| (i % 11) as f32 * 0.1).collect();
    let dy: Vec<f32> = (0..5 * 70).map(|i| (i % 13) as f32 * 0.1).collect();
    let bias: Vec<f32> = (0..70).map(|i| i as f32).collect();
    let products = |leaf: &Leaf| {
        let operand = leaf.operand(Compute::F32);
        let (mut y, mut dx) = (vec![0.0; 5 * 70], vec![1.0; 5 * 33]);
        operand.forward(Rows::dense(&x, 5, 33), Some(&bias), RowsMut::dense(&mut y, 5, 70));
        for accumulate in [false, true] {
            operand.backward(Rows::dense(&dy, 5, 70), RowsMut::dense(&mut dx, 5, 33), accumulate);
        }
        [y, dx]
    };
    let wanted = products(&whole);
    let mut joined = Leaf::joined(parts.to_vec());
    assert_eq!(joined.shape(), whole.shape());
    for streamed in [false, true] {
        if streamed {
            joined.stream(&mut Queue::places(parts.to_vec()));
        }
        for (found, wanted) in products(&joined).into_iter().flatten().zip(wanted.iter().flatten()) {
            assert!((found - wanted).abs() < 1e-4, "{found} and {wanted}");
        }
        assert_eq!(joined.queue().is_some(), streamed);
    }
    assert!(joined.value.get().is_none());
    assert_eq!(joined.float().to_f32_vec(), whole.value().to_f32_vec());
    joined.set_trainable(true);
    joined.value_mut()[0] += 1.0;
    assert_eq!(joined.value().to_f32_vec()[0], whole.value().to_f32_vec()[0] + 1.0);
    assert_eq!(joined.tensors().count(), 1);
}

/// Whether it was in 8 bits before or not; what is trained is multiplied in its own type.
#[test]
fn a_frozen_leaf_is_multiplied_in_whole_numbers_and_a_trained_one_is_not() {
    let mut frozen = leaf(70, 33);
    let quantized = Quantized::from_float(frozen.value()).unwrap();
    let mut eight = Leaf::quantized(quantized);
    let kinds = |leaf: &Leaf| matches!(leaf.operand(Compute::F32), Operand::Int8(_));
    assert!(!kinds(&frozen) && !kinds(&eight));
    for leaf in [&mut frozen, &mut eight] {
        let x: Vec<f32> = (0..5 * 33).map(|i| (i % 11) as f32 * 0.1).collect();
        let product = |leaf: &Leaf| {
            let mut y = vec![0.0; 5 * 70];
            let y_rows = RowsMut::dense(&mut y, 5, 70);
            leaf.operand(Compute::F32).forward(Rows::dense(&x, 5, 33), None, y_rows);
            y
        };
        let wanted = product(leaf);
        assert_eq!(leaf.multiply_in_int8(Compute::F32, true), Some(1));
        assert!(kinds(leaf));
        let largest = wanted.iter().fold(0.0, |max: f32, y| max.max(y.abs()));
        for (found, wanted) in product(leaf).into_iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-2 * largest, "{found} and {wanted}");
        }
        leaf.set_trainable(true);
        assert!(!kinds(leaf));
    }
    let mut joined = Leaf::joined(vec![frozen.value().rows(0..40), frozen.value().rows(40..70)]);
    assert_eq!(joined.multiply_in_int8(Compute::F32, true), Some(2));
    let Operand::Below(parts) = joined.operand(Compute::F32) else { panic!("products go by the parts") };
    assert!(parts.iter().all(|(_, part)| matches!(part, Operand::Int8(_))));
    let mut infinite = Leaf::frozen(Tensor::from_slice([1, 2], &[1.0, f32::INFINITY]));
    assert_eq!(infinite.multiply_in_int8(Compute::F32, true), None);
    assert!(!kinds(&infinite));
}
