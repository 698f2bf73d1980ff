//! The `hsm-bridge` program: everything is in the library.

fn main() -> ! {
    hsm_bridge::cli::main()
}
