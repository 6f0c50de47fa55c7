//! Devices that the executable's workers cannot use, and why.

use terrarium_kernels as kernels;

/// Why a worker cannot use the device `name`, which nobody registered, and
/// what to do; each in one line. A card is looked for, so that a machine
/// without a driver is told apart from one whose card could be used.
pub fn unavailable(name: &str) -> (String, String) {
    let cpu = "use --device cpu";
    let Some(ordinal) = name.strip_prefix("cuda:").and_then(|number| number.parse().ok()) else {
        return (format!("this build has no device `{name}`"), cpu.into());
    };
    let config = kernels::CudaConfig { ordinal, ..kernels::CudaConfig::default() };
    match kernels::Device::cuda(config) {
        Ok(device) => {
            let missing = "workers are locked down and reach it only through `terrarium broker`";
            (
                format!("{name} is there ({}), but {missing}", device.kind()),
                format!(
                    "run `terrarium broker --device {name} --socket PATH` and use --broker PATH, or {cpu}"
                ),
            )
        }
        Err(error) => {
            let said = error.to_string();
            let (what, hint) = said.split_once("; ").unwrap_or((&said, cpu));
            let hint = if hint.contains(cpu) { hint.into() } else { format!("{hint}, or {cpu}") };
            (format!("{name}: {what}"), hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unavailable;

    #[test]
    fn says_what_is_missing_in_one_line_each() {
        for name in ["cuda:0", "cuda:4000000000", "cuda:", "cuda:-1", "tpu", ""] {
            let (what, hint) = unavailable(name);
            assert!(what.contains(name) && !what.contains('\n') && !hint.contains('\n'), "{what} {hint}");
            assert!(hint.contains("--device cpu"), "{hint}");
        }
    }
}
