//! Draws the Mandelbrot set, row by row: on one thread, then on a thread pool by [`ThreadPool::map`]. Prints
//! how long each took.
//!
//! It shows how a loop over a slice becomes a parallel one: `map` takes inputs, outputs and a function that
//! may borrow what it likes, and returns when all is done. Rows cost very different amounts of work (those
//! through the middle of the set the most), and the threads share them out as they go. The calling thread
//! works too.
//!
//! ```text
//! cargo run --release --example parallel_map -- --size 2000 --threads 4
//! ```

use std::io::{self, Write};
use std::num::NonZero;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use oxev::ThreadPool;

/// Draws the Mandelbrot set on one thread and on many, and compares the times.
#[derive(Parser)]
struct Args {
    /// The width and the height of the picture.
    #[arg(long, value_name = "POINTS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// The most steps to take for a point.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// How many threads work, the calling one included; one per core if it is not given.
    #[arg(long)]
    threads: Option<NonZero<usize>>,
    /// Draws so often, and takes the best time of each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
}

fn main() -> ExitCode {
    match compare(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("parallel_map: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(args: &Args) -> io::Result<()> {
    let threads = args.threads.map_or_else(std::thread::available_parallelism, Ok)?.get();
    let rows: Vec<u32> = (0..args.size).collect();
    let draw = |row: &u32| points_inside(*row, args);

    let mut expected = vec![0; rows.len()];
    let one = best_of(args.repeat, || {
        for (inside, row) in expected.iter_mut().zip(&rows) {
            *inside = draw(row);
        }
    });

    let mut found = vec![0; rows.len()];
    let many = match threads - 1 {
        0 => best_of(args.repeat, || found = rows.iter().map(draw).collect()),
        workers => {
            let pool = ThreadPool::builder().max_threads(workers).build()?;
            best_of(args.repeat, || pool.map(&rows, &mut found, draw))
        }
    };

    assert_eq!(found, expected, "both drew the same picture");
    report(args, &expected, threads, one, many)
}

fn report(args: &Args, inside: &[u32], threads: usize, one: Duration, many: Duration) -> io::Result<()> {
    let (total, size) = (inside.iter().map(|&row| u64::from(row)).sum::<u64>(), args.size);
    let mut out = io::stdout().lock();
    writeln!(out, "{size} rows of {size} points, of which {total} are in the set")?;
    writeln!(out, "one thread:  {one:>10.2?}")?;
    writeln!(out, "{:<13}{many:>10.2?}", format!("shared by {threads}:"))?;
    writeln!(out, "speed-up:    {:>9.2}x", one.as_secs_f64() / many.as_secs_f64())
}

fn best_of(repeat: u32, mut draw: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        draw();
        start.elapsed()
    };
    (0..repeat).map(time).min().unwrap_or_default()
}

/// How many points of a row are in the set.
fn points_inside(row: u32, args: &Args) -> u32 {
    let scale = 3.0 / f64::from(args.size);
    let imaginary = f64::from(row) * scale - 1.5;
    (0..args.size)
        .map(|column| is_inside(f64::from(column) * scale - 2.25, imaginary, args.steps))
        .map(u32::from)
        .sum()
}

/// Whether z → z² + c stays near zero for this many steps.
fn is_inside(c_real: f64, c_imaginary: f64, steps: u32) -> bool {
    let (mut real, mut imaginary) = (0.0, 0.0);
    for _ in 0..steps {
        let (real_squared, imaginary_squared) = (real * real, imaginary * imaginary);
        if real_squared + imaginary_squared > 4.0 {
            return false;
        }
        imaginary = 2.0 * real * imaginary + c_imaginary;
        real = real_squared - imaginary_squared + c_real;
    }
    true
}
