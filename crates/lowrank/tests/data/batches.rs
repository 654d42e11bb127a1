use lowrank::data::{Batch, BatchPlan, Batches, Dataset, Label, Labels, Position, TokenizedDataset};

/// `n` examples, number i being i + 1 times the token i, of class i.
fn dataset(n: u32) -> TokenizedDataset {
    let ids: Vec<Vec<u32>> = (0..n).map(|i| vec![i; i as usize + 1]).collect();
    let labelled = ids.iter().zip(0..).map(|(ids, class)| (ids.as_slice(), Some(Label::Class(class))));
    TokenizedDataset::from_ids(labelled).unwrap()
}

fn plan(batch_size: usize, gradient_accumulation: usize) -> BatchPlan {
    BatchPlan { batch_size, gradient_accumulation, shuffle: true, seed: 42, pass: None }
}

#[test]
fn a_batch_is_its_examples_side_by_side() {
    let batch = dataset(5).gather(&[2, 0, 1], 7, None).unwrap();
    let text = batch.text().unwrap();
    assert_eq!(text.ids, [2, 2, 2, 0, 1, 1]);
    assert_eq!(text.position_ids, [0, 1, 2, 0, 0, 1]);
    assert_eq!(text.type_ids, [0; 6]);
    assert_eq!(text.offsets, [0, 3, 4, 6]);
    assert_eq!(batch.labels, Labels::Classes(vec![2, 0, 1]));
    assert_eq!(batch.examples, [7, 8, 9]);
    assert_eq!((batch.sequences(), batch.tokens(), batch.longest()), (3, 6, 3));
    dataset(5).gather(&[5], 0, None).unwrap_err();
}

#[test]
fn an_epoch_has_every_example_once_in_an_order_of_its_own() {
    let data = dataset(23);
    let mut batches = Batches::new(&data, plan(4, 1), Position::default()).unwrap();
    let mut epochs = Vec::new();
    for _ in 0..3 {
        let mut seen = Vec::new();
        for step in 0..6 {
            let rows = batches.rows().to_vec();
            assert_eq!(rows.len(), if step == 5 { 3 } else { 4 }, "the smaller last batch is kept");
            seen.extend(rows);
            batches.next_step().unwrap();
        }
        epochs.push(seen.clone());
        seen.sort_unstable();
        assert_eq!(seen, (0..23).collect::<Vec<_>>());
    }
    assert_ne!(epochs[0], epochs[1]);
    assert_ne!(epochs[1], epochs[2]);
    assert_ne!(epochs[0], (0..23).collect::<Vec<_>>());
    assert_eq!(batches.position(), Position { epoch: 3, step: 0 });
}

#[test]
fn from_any_position_on_the_batches_are_those_of_the_unbroken_run() {
    let data = dataset(11);
    let mut unbroken = Batches::new(&data, plan(3, 1), Position::default()).unwrap();
    for _ in 0..9 {
        let mut resumed = Batches::new(&data, plan(3, 1), unbroken.position()).unwrap();
        for _ in 0..2 {
            resumed.next_step().unwrap();
        }
        let mut ahead = Batches::new(&data, plan(3, 1), unbroken.position()).unwrap();
        assert_eq!(ahead.next_step().unwrap(), unbroken.next_step().unwrap());
        assert_eq!(ahead.position(), unbroken.position());
    }
    Batches::new(&data, plan(3, 1), Position { epoch: 0, step: 4 }).unwrap_err();
}

#[test]
fn accumulated_batches_are_the_big_batch_in_parts() {
    let data = dataset(10);
    let mut big = Batches::new(&data, plan(6, 1), Position::default()).unwrap();
    let mut parts = Batches::new(&data, plan(2, 3), Position::default()).unwrap();
    assert_eq!(big.steps_per_epoch(), parts.steps_per_epoch());
    for step in 0..4 {
        let whole = big.next_step().unwrap().remove(0);
        let parts = parts.next_step().unwrap();
        assert_eq!(parts.len(), if step % 2 == 0 { 3 } else { 2 });
        let join = |field: fn(&Batch) -> &[u32]| parts.iter().flat_map(field).copied().collect::<Vec<_>>();
        assert_eq!(join(|batch| &batch.text().unwrap().ids), whole.text().unwrap().ids);
        assert_eq!(join(|batch| &batch.examples), whole.examples);
    }
}

#[test]
fn orders_are_uniform_and_depend_on_the_seed() {
    let mut first = [0u32; 6];
    for epoch in 0..6000 {
        first[plan(1, 1).order(6, epoch).unwrap()[0] as usize] += 1;
    }
    assert!(first.iter().all(|&count| (850..1150).contains(&count)), "{first:?}");
    let other = BatchPlan { seed: 43, ..plan(1, 1) };
    assert_ne!(plan(1, 1).order(50, 0).unwrap(), other.order(50, 0).unwrap());
    assert_eq!(BatchPlan::in_order(8).order(4, 3).unwrap(), [0, 1, 2, 3]);
}

#[test]
fn there_are_no_batches_of_nothing() {
    Batches::new(&dataset(0), plan(1, 1), Position::default()).unwrap_err();
    TokenizedDataset::from_ids([(&[][..], None)]).unwrap_err();
}

#[test]
fn labels_of_two_kinds_or_missing_ones_are_none() {
    let class = Some(Label::Class(1));
    assert_eq!(Labels::gather([class, None]), Labels::None);
    assert_eq!(Labels::gather([class, Some(Label::Score(0.5))]), Labels::None);
    assert_eq!(Labels::gather([Some(Label::Score(0.5))]), Labels::Scores(vec![0.5]));
    assert!(Labels::gather([]).is_empty());
}
