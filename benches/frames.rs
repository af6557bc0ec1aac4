//! What a frame costs by itself, in memory: encoded with both checksums, and decoded with every check. Sizes are bytes of payload.

use criterion::{BenchmarkId, Criterion, Throughput};
use maplog::testing::{decode_frame, encode_frame};
use std::hint::black_box;
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    frame(&mut criterion);
    criterion.final_summary();
}

fn frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    for size in [16, 128, 1 << 10, 16 << 10] {
        let payload = vec![7; size];
        let mut image = vec![0; size + 64];
        group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 });
        group.bench_function(BenchmarkId::new("encode", size), |bencher| {
            bencher.iter(|| encode_frame(black_box(7), black_box(&payload), black_box(&mut image)));
        });
        encode_frame(7, &payload, &mut image);
        assert_eq!(decode_frame(&image), Ok(&payload[..]));
        group.bench_function(BenchmarkId::new("decode", size), |bencher| {
            bencher.iter(|| decode_frame(black_box(&image)).is_ok());
        });
    }
}
