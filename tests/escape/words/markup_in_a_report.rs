//! attack: puts markup into the log, the metrics, a knob and the source, for the page of the run
//! expect: finished
//! via: report
//! never: <script>alert
//! never: <img src=x
//! never: <b onclick

use terrarium_sdk::{Function, Result, export_function, knobs, report};

// EVOLVE-BLOCK-START all
#[derive(Default)]
struct Guest;

impl Function for Guest {
    fn call(&mut self, input: &[u8]) -> Result<Vec<u8>> {
        report::log("<script>alert(1)</script><img src=x onerror=alert(2)>");
        report::metric("<script>alert(3)</script>", 0, 1.0);
        let _ = knobs::choice("<b onclick=alert(4)>", 0, &["<script>alert(5)</script>", "\"><script>alert(6)</script>"]);
        // </script><script>alert(7)</script><!--
        let n = u32::from_le_bytes([input[0], input[1], input[2], input[3]]) as usize;
        let width = knobs::number("width", 0.9, 0.1, 1.0, knobs::Linear) / 12.0;
        let circle = |i: usize| [(i % 6) as f64 / 6.0 + 1.0 / 12.0, (i / 6) as f64 / 6.0 + 1.0 / 12.0, width];
        Ok((0..n).flat_map(circle).flat_map(f64::to_le_bytes).collect())
    }
}
// EVOLVE-BLOCK-END

export_function!(Guest);
