//! Which memory of the host is near the device (Linux; elsewhere the system decides).

use std::path::Path;

/// NUMA node of the PCI device at `address` (`0000:3b:00.0`) under `root` (`/sys`); `None` where the
/// machine has one node or does not tell.
pub(crate) fn node_of(root: &Path, address: &str) -> Option<u32> {
    let path = root.join("bus/pci/devices").join(address).join("numa_node");
    // -1 says that there is none.
    std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok()?.try_into().ok()
}

/// Runs `work` while new pages of this thread come from `node` if they can, then restores the
/// thread's policy.
#[cfg(target_os = "linux")]
pub(crate) fn on_node<T>(node: Option<u32>, work: impl FnOnce() -> T) -> T {
    let Some(before) = node.and_then(linux::prefer) else { return work() };
    let result = work();
    linux::restore(&before);
    result
}

/// As on Linux, without a preference.
#[cfg(not(target_os = "linux"))]
pub(crate) fn on_node<T>(_node: Option<u32>, work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::{c_int, c_ulong};

    /// Nodes that a policy can name here.
    const WORDS: usize = 16;
    const NODES: usize = WORDS * c_ulong::BITS as usize;
    /// `MPOL_PREFERRED` of the kernel's mempolicy.h.
    const PREFERRED: c_int = 1;

    /// A thread's memory policy.
    pub(super) struct Policy {
        mode: c_int,
        nodes: [c_ulong; WORDS],
    }

    /// Prefers `node` for new pages; the policy before, or `None` where that is not possible.
    pub(super) fn prefer(node: u32) -> Option<Policy> {
        let mut before = Policy { mode: 0, nodes: [0; WORDS] };
        // SAFETY: a place for the mode, and one for as many bits as announced.
        let got = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut before.mode,
                before.nodes.as_mut_ptr(),
                NODES as c_ulong,
                0,
                0,
            )
        };
        let mut nodes = [0; WORDS];
        *nodes.get_mut(node as usize / c_ulong::BITS as usize)? = 1 << (node % c_ulong::BITS);
        (got == 0 && set(&Policy { mode: PREFERRED, nodes })).then_some(before)
    }

    /// Makes `policy` the thread's again.
    pub(super) fn restore(policy: &Policy) {
        if !set(policy) {
            tracing::warn!("the thread's memory policy could not be restored");
        }
    }

    fn set(policy: &Policy) -> bool {
        let none = policy.nodes.iter().all(|n| *n == 0);
        let nodes = if none { std::ptr::null() } else { policy.nodes.as_ptr() };
        let count = if none { 0 } else { NODES as c_ulong };
        // SAFETY: as many bits as announced, or none.
        unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, nodes, count) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_read_from_the_system() {
        let root = tempfile::tempdir().expect("a folder");
        let device = root.path().join("bus/pci/devices/0000:3b:00.0");
        std::fs::create_dir_all(&device).expect("makes it");
        for (text, want) in [("1\n", Some(1)), ("-1\n", None), ("?", None)] {
            std::fs::write(device.join("numa_node"), text).expect("writes");
            assert_eq!(node_of(root.path(), "0000:3b:00.0"), want);
        }
        assert_eq!(node_of(root.path(), "0000:00:00.0"), None);
    }

    #[test]
    fn memory_is_had_on_every_node_that_may_not_exist() {
        for node in [None, Some(0), Some(1023), Some(u32::MAX)] {
            assert_eq!(on_node(node, || vec![1u8; 1 << 16].len()), 1 << 16);
        }
    }
}
