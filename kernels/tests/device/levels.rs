//! The CPU device chooses its instructions at run time: every choice that this
//! machine has passes the tests of products, attention and row kernels, not only
//! the best one, which all tests use.

use std::process::{Command, Output};

/// These tests once more, in a process of their own that has to use `level`.
fn tests_at(level: &str, filters: &[&str]) -> Output {
    Command::new(std::env::current_exe().expect("the path of this test"))
        .args(filters)
        .env("TERRARIUM_SIMD", level)
        .env("PROPTEST_CASES", "24")
        .output()
        .expect("the test starts again")
}

fn levels() -> Vec<&'static str> {
    #[allow(unused_mut)]
    let mut levels = vec!["portable"];
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        levels.push("avx2");
        if is_x86_feature_detected!("avx512f") {
            levels.push("avx512");
            if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw") {
                levels.push("avx512bf16");
            }
        }
    }
    levels
}

#[test]
fn every_level_of_this_machine_passes_the_tests() {
    for level in levels() {
        let groups = [
            "matrices::",
            "fused::",
            "halves::",
            "heads::",
            "experts::",
            "rows::",
            "models::attention",
            "threads::attention",
        ];
        let output = tests_at(level, &groups);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{level}: {text}");
        assert!(!text.contains(" 0 passed"), "{level}: no test ran: {text}");
    }
}

#[test]
fn a_level_that_is_none_is_refused_by_name() {
    let output = tests_at("mmx", &["matrices::large"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("TERRARIUM_SIMD=mmx"), "{text}");
}
