//! Writes `docs/cuda-results.md`: `make cuda-results`.

use std::error::Error;

use terrarium_tests::cuda_results as results;

fn main() -> Result<(), Box<dyn Error>> {
    let catalogue = results::read(&results::folder().join("bundle/catalogue.json"))?;
    let page = results::page(&catalogue, &results::runs()?)?;
    std::fs::write(results::page_path(), page)?;
    Ok(())
}
