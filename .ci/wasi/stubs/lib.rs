//! The functions of threads that Rust's standard library wants of the C library, and that Debian's is too old to have. As in newer ones,
//! there are no threads.
#![no_std]

const ENOTSUP: i32 = 58;

macro_rules! stubs {
    ($($name:ident($($argument:ty),*) -> $result:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $argument),*) -> i32 {
            $result
        })*
    };
}

stubs! {
    pthread_attr_init(usize) -> 0;
    pthread_attr_destroy(usize) -> 0;
    pthread_attr_setstacksize(usize, usize) -> 0;
    pthread_create(usize, usize, usize, usize) -> ENOTSUP;
    pthread_join(usize, usize) -> ENOTSUP;
    pthread_detach(usize) -> ENOTSUP;
}
