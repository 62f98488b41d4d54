use prost_reflect::DescriptorPool;
use std::sync::OnceLock;

/// [`FILE_DESCRIPTOR_SET`](crate::FILE_DESCRIPTOR_SET) as a pool, built on the first call.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).expect("the build compiled this descriptor set")
    })
}
