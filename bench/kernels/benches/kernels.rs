//! Every kernel on the tier of this process, which `LOWRANK_CPU` names.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lowrank_bench::work::{Cost, all};
use lowrank_kernels::{Compute, Tier};

fn kernels(criterion: &mut Criterion) {
    for (compute, name_of_type) in [(Compute::F32, "f32"), (Compute::Bf16, "bf16")] {
        let mut group = criterion.benchmark_group(format!("{} {name_of_type}", Tier::active()));
        group.sample_size(10);
        for mut work in all(compute) {
            group.throughput(match work.cost {
                Cost::Operations(count, _) => Throughput::Elements(count as u64),
                Cost::Bytes(bytes) => Throughput::Bytes(bytes as u64),
            });
            group.bench_function(&work.name, |bencher| bencher.iter(|| (work.run)()));
        }
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
