use lowrank_kernels::random::{FAST_ROUNDS, Philox, ROUNDS, philox4x32};

/// The known-answer vectors of Random123 (`kat_vectors`).
#[test]
fn philox_gives_the_published_numbers() {
    let pi = ([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
    let (zeros, ones) = (([0; 4], [0; 2]), ([u32::MAX; 4], [u32::MAX; 2]));
    let ten = |(counter, key)| philox4x32::<ROUNDS>(counter, key);
    assert_eq!(ten(zeros), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(ten(ones), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(ten(pi), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    let seven = |(counter, key)| philox4x32::<FAST_ROUNDS>(counter, key);
    assert_eq!(seven(zeros), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
    assert_eq!(seven(ones), [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]);
    assert_eq!(seven(pi), [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a]);
}

#[test]
fn a_position_is_the_whole_state() {
    let mut generator = Philox::new(1 << 40 | 3, 9);
    let all: Vec<u32> = (0..23).map(|_| generator.next_u32()).collect();
    for start in 0..all.len() {
        let mut other = Philox::new(1 << 40 | 3, 9);
        other.set_position(start as u64);
        let rest: Vec<u32> = (start..all.len()).map(|_| other.next_u32()).collect();
        assert_eq!(rest, all[start..]);
        assert_eq!(other, generator);
    }
    assert_ne!(Philox::new(1 << 40 | 3, 8).next_u32(), all[0]);
    assert_ne!(Philox::new(3, 9).next_u32(), all[0]);
}

#[test]
fn numbers_have_their_distribution() {
    let mut generator = Philox::new(5, 0);
    let n = 20_000;
    let uniform: Vec<f32> = (0..n).map(|_| generator.uniform_f32()).collect();
    assert!(uniform.iter().all(|x| (0.0..1.0).contains(x)));
    let mean = uniform.iter().sum::<f32>() / n as f32;
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
    let normal: Vec<f32> = (0..n).map(|_| generator.normal_f32()).collect();
    let mean = normal.iter().sum::<f32>() / n as f32;
    let variance = normal.iter().map(|x| x * x).sum::<f32>() / n as f32;
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    let mut counts = [0; 7];
    (0..n).for_each(|_| counts[generator.below(7) as usize] += 1);
    assert!(counts.iter().all(|&count| (2_600..3_120).contains(&count)), "{counts:?}");
}

#[test]
fn shuffling_keeps_every_item() {
    let mut items: Vec<u32> = (0..100).collect();
    Philox::new(2, 2).shuffle(&mut items);
    assert_ne!(items, (0..100).collect::<Vec<_>>());
    items.sort_unstable();
    assert_eq!(items, (0..100).collect::<Vec<_>>());
    Philox::new(2, 2).shuffle::<u32>(&mut []);
}
