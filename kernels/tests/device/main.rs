//! The device against its reference, its contract and hostile arguments.

mod bench;
mod cuda;
mod experts;
mod fuel;
mod fused;
mod garbage;
mod gradients;
mod halves;
mod handles;
mod heads;
mod image;
mod levels;
mod matrices;
mod models;
mod planted;
mod refusals;
mod rows;
mod secrets;
mod tensor_cores;
mod threads;
