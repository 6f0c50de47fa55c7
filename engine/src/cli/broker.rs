//! `terrarium broker`: owns a device and lends it.

use super::failure::Failure;
use super::{Ended, args, exit};
use terrarium_sandbox::broker::{Broker, BrokerConfig};

/// Serves until it is stopped.
pub fn broker(args: &args::Broker) -> Ended {
    let config = match &args.config {
        None => BrokerConfig::default(),
        Some(path) => {
            let text = crate::task::read_text(path)?;
            let fault = |e: String| {
                Failure::usage(format!("{}: {e}", path.display()), "see the table in docs/broker.md")
            };
            let config: BrokerConfig = toml::from_str(&text).map_err(|e| fault(e.to_string()))?;
            config.check().map_err(fault)?;
            config
        }
    };
    let exe = "/proc/self/exe".into();
    let broker = Broker { device: args.device.clone(), socket: args.socket.clone(), config, exe };
    let socket = args.socket.display();
    let served = broker.serve(|kind, owner| eprintln!("broker: {kind} at {socket} (process {owner})"));
    match served {
        Ok(()) => Ok(exit::OK),
        Err(e) => {
            let mut failure = Failure::new(
                e.to_string(),
                "another --socket, or --device cpu; `terrarium doctor` shows what is missing",
            );
            failure.exit = exit::UNAVAILABLE;
            Err(failure)
        }
    }
}
