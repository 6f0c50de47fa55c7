//! What must be true of every report, whatever the attack.

use serde_json::Value;
use terrarium_sandbox::{Outcome, Product, Report};

use super::Attack;

/// No report of a hostile evaluation is larger than this without its output.
const MOST_TEXT: usize = 4 << 20;

/// The least bits per byte that a hostile trainer may have on the made-up
/// text: a word is one of twelve, about five letters long (0.66 bits per byte),
/// and nothing that does not know the generator's state predicts it better.
const LEAST_BITS: f64 = 0.6;

/// Everything in which a report does not hold.
pub(super) fn report(attack: &Attack, report: &Report, secrets: &[String]) -> Vec<String> {
    let mut breaches = Vec::new();
    let limits = &attack.limits;
    if report.product.is_some() != report.outcome.is_finished() {
        breaches.push("a product without an end, or an end without a product".into());
    }
    if report.log.len() as u64 > limits.log_bytes {
        breaches.push(format!("{} bytes of log", report.log.len()));
    }
    if report.metrics.len() as u64 > limits.metrics || report.knobs.len() > 128 {
        breaches.push(format!("{} metrics, {} knobs", report.metrics.len(), report.knobs.len()));
    }
    let usage = &report.usage;
    if usage.device_fuel > limits.device_fuel
        || usage.peak_memory_bytes > limits.memory_bytes
        || usage.peak_device_bytes > limits.device_bytes
        || usage.fuel.is_some_and(|fuel| fuel > limits.fuel)
    {
        breaches.push(format!("used more than the limits: {usage:?}"));
    }
    match &report.product {
        Some(Product::Output(bytes)) => {
            if bytes.len() as u64 > limits.output_bytes {
                breaches.push(format!("{} bytes of output", bytes.len()));
            }
            let text = String::from_utf8_lossy(bytes);
            if attack.output.as_ref().is_some_and(|wanted| *wanted != text) {
                breaches.push(format!("the output is {:?}", text.chars().take(300).collect::<String>()));
            }
            breaches.extend(secrets_in(&text, secrets));
        }
        Some(Product::Outputs(outputs)) => {
            let bytes: u64 = outputs.iter().map(|output| output.len() as u64).sum();
            if bytes > limits.output_bytes {
                breaches.push(format!("{bytes} bytes of output"));
            }
            for output in outputs {
                breaches.extend(secrets_in(&String::from_utf8_lossy(output), secrets));
            }
        }
        Some(Product::HeldOut(score)) => {
            let bits = score.bits_per_byte;
            if !bits.is_finite() || bits < LEAST_BITS || score.window_nats.iter().any(|n| !n.is_finite()) {
                breaches.push(format!("a score of {bits} bits per byte"));
            }
            if attack.score.is_some_and(|wanted| wanted != bits) {
                breaches.push(format!("the score is {bits}"));
            }
        }
        None => {}
    }
    let mut words = report.clone();
    words.product = None;
    breaches.extend(outcome(attack, &report.outcome));
    breaches.extend(text_of(attack, &serde_json::to_value(&words).unwrap_or_default(), secrets));
    breaches
}

/// Whether it is one of those that it must be.
pub(super) fn outcome(attack: &Attack, outcome: &Outcome) -> Option<String> {
    let code = outcome.code();
    let shown: String = format!("{outcome:?}").chars().take(600).collect();
    (!attack.expect.iter().any(|expected| expected == code)).then(|| format!("it ended in {code}: {shown}"))
}

/// Every text in `value`: bounded, without what a terminal would obey, with
/// what must be said and without what must not.
pub(super) fn text_of(attack: &Attack, value: &Value, secrets: &[String]) -> Vec<String> {
    let mut all = String::new();
    strings(value, &mut all);
    let mut breaches = Vec::new();
    if all.len() > MOST_TEXT {
        breaches.push(format!("{} bytes of text", all.len()));
    }
    breaches.extend(plain(&all));
    breaches.extend(words(attack, &all));
    breaches.extend(secrets_in(&all, secrets));
    breaches
}

/// What must be said and what must not.
pub(super) fn words(attack: &Attack, text: &str) -> Vec<String> {
    let missing = attack.says.iter().filter(|word| !text.contains(word.as_str()));
    let present = attack.never.iter().filter(|word| text.contains(word.as_str()));
    let shown = || text.chars().take(600).collect::<String>();
    missing
        .map(|word| format!("it does not say {word:?}: {}", shown()))
        .chain(present.map(|word| format!("it says {word:?}: {}", shown())))
        .collect()
}

/// Text that a terminal may be given.
pub(super) fn plain(text: &str) -> Option<String> {
    // Not the list of the sandbox, which is what is tried here.
    let bad = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{3164}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{e0000}'..='\u{e01ef}')
    };
    text.chars().find(|&c| bad(c)).map(|c| format!("U+{:04X} is shown to a terminal", u32::from(c)))
}

fn secrets_in(text: &str, secrets: &[String]) -> Vec<String> {
    secrets.iter().filter(|s| text.contains(s.as_str())).map(|s| format!("{s:?} was told")).collect()
}

/// All strings of a JSON value, a line each.
fn strings(value: &Value, to: &mut String) {
    match value {
        Value::String(text) => {
            to.push_str(text);
            to.push('\n');
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, to)),
        Value::Object(fields) => {
            for (name, value) in fields {
                to.push_str(name);
                to.push('\n');
                strings(value, to);
            }
        }
        _ => {}
    }
}
