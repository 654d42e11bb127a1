use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lowrank_kernels::parallel::{PerRow, awake, for_each_row_block, init_threads, sum_row_blocks, threads};

use crate::support::on_threads;

#[test]
fn every_row_is_visited_once_with_its_output() {
    for (rows, cost) in [(0, 1), (1, 1), (1000, 1), (1000, 1000), (3, 1 << 30)] {
        let mut visits = vec![0; 2 * rows];
        on_threads(3, || {
            for_each_row_block(rows, cost, PerRow { data: &mut visits, per_row: 2 }, |range, visits| {
                for (row, visits) in range.zip(visits.data.chunks_exact_mut(2)) {
                    visits[0] += row + 1;
                    visits[1] += 1;
                }
            });
        });
        let expected: Vec<usize> = (0..rows).flat_map(|row| [row + 1, 1]).collect();
        assert_eq!(visits, expected);
    }
}

#[test]
fn sums_do_not_depend_on_threads() {
    let sum = |threads, rows| {
        on_threads(threads, || {
            let mut total = [1.0_f32, 2.0];
            let mut squares = vec![0.0; rows];
            let outputs = PerRow::one(&mut squares);
            sum_row_blocks(rows, 10_000, &mut total, outputs, |range, squares, sum| {
                for (row, square) in range.zip(squares.data) {
                    *square = (row * row) as f32;
                    sum[0] += 1.0 / (row as f32 + 1.0);
                    sum[1] += 1.0;
                }
            });
            (total, squares)
        })
    };
    for rows in [1, 63, 64, 65, 500] {
        let (total, squares) = sum(1, rows);
        assert_eq!(total[1], rows as f32 + 2.0);
        assert!(squares.iter().enumerate().all(|(row, &square)| square == (row * row) as f32));
        assert_eq!((total, squares), sum(3, rows));
    }
}

/// Each has a thread of the pool, and comes by the other's request for parts while it waits for a part of its own.
#[test]
fn two_callers_keep_one_pool_awake() {
    let steps = || {
        for step in 0..2000 {
            let mut sums = vec![0; 64];
            awake(|| {
                for_each_row_block(64, 1 << 13, PerRow::one(&mut sums), |range, sums| {
                    for (row, sum) in range.zip(sums.data) {
                        *sum = (0..row).sum::<usize>() + step;
                    }
                });
            });
            assert_eq!(sums[63], 1953 + step);
        }
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| pool.install(steps));
        threads.spawn(|| pool.install(steps));
    });
}

/// As happens to a thread that took a part of the work, and waits within it, before it saw the request.
#[test]
fn a_thread_asked_in_the_midst_of_a_part_returns_to_it() {
    let [taken, begun, returned] = [const { AtomicBool::new(false) }; 3];
    let wait = |flag: &AtomicBool| {
        let start = Instant::now();
        while !flag.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(30) {
            std::hint::spin_loop();
        }
        flag.load(Ordering::SeqCst)
    };
    on_threads(2, || {
        rayon::scope(|scope| {
            scope.spawn(|_| {
                taken.store(true, Ordering::SeqCst);
                assert!(wait(&begun));
                while rayon::yield_now() != Some(rayon::Yield::Executed) {}
                returned.store(true, Ordering::SeqCst);
            });
            // By another thread: this one takes nothing before it waits for a job.
            assert!(wait(&taken));
            awake(|| {
                begun.store(true, Ordering::SeqCst);
                assert!(wait(&returned));
            });
        });
    });
}

/// In a process of its own under nextest; elsewhere another test may have started the threads.
#[test]
fn threads_are_set_once() {
    if init_threads(2).is_ok() {
        assert_eq!(threads(), 2);
    }
    assert!(init_threads(3).is_err());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn kernels_treat_denormal_numbers_as_zero() {
    let mut x = [f32::MIN_POSITIVE; 3];
    for_each_row_block(3, 1, PerRow::one(&mut x), |_, x| {
        x.data.iter_mut().for_each(|x| *x = std::hint::black_box(*x) * std::hint::black_box(0.5));
    });
    assert_eq!(x.map(f32::to_bits), [0; 3]);
}
