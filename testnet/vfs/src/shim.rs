//! The side that SQLite calls: tables of functions that hand every operation on to the platform's own file system.
//!
//! SQLite's rules for these, on which the code below relies (sqlite3.h, "OS Interface Object" and "OS Interface Open File
//! Handle"): a registered table stays where it is until it is unregistered, which never happens here; SQLite gives every
//! file `szOsFile` bytes, aligned for pointers, and calls its methods only between an xOpen that has set them and xClose.

#![allow(
    unsafe_code,
    reason = "a virtual file system is a table of C functions over memory that SQLite owns; tests need one, nothing else does"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use crate::state::Shared;
use crate::{Fault, FileName};

/// A file of ours; that of the platform follows it in the same memory.
#[repr(C)]
struct Shim {
    base: sqlite3_file,
    shared: &'static Shared,
    open: *mut Open,
}

struct Open {
    name: FileName,
    /// The platform's file system syncs the folder with the first sync of a log or journal that may be new (`unixOpen`,
    /// `unixSync` and UNIXFILE_DIRSYNC in SQLite's os_unix.c); so the record says so.
    sync_folder: bool,
}

/// Registers a file system under a new name.
pub(crate) fn register() -> &'static Shared {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("p2p-vfs-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let c_name = CString::new(name.clone()).expect("no zero inside");
    let shared: &'static Shared = Box::leak(Box::new(Shared::new(name)));
    let real = platform();
    // SAFETY: SQLite's default file system is registered for as long as the process lives.
    let (path_len, file_len) = unsafe { ((*real).mxPathname, (*real).szOsFile) };
    let vfs = Box::leak(Box::new(sqlite3_vfs {
        iVersion: 2,
        szOsFile: size_of::<Shim>() as c_int + file_len,
        mxPathname: path_len,
        pNext: ptr::null_mut(),
        zName: c_name.into_raw(),
        pAppData: ptr::from_ref(shared).cast_mut().cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: Some(current_time_int64),
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the table and all it points to are leaked, so they stay; it is not made the default.
    let code = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
    assert_eq!(code, ffi::SQLITE_OK, "SQLite registers a file system");
    shared
}

/// SQLite's own file system.
fn platform() -> *mut sqlite3_vfs {
    // SAFETY: it may be asked at any time; the default one is never null nor unregistered.
    unsafe { ffi::sqlite3_vfs_find(ptr::null()) }
}

/// # Safety
/// `vfs` is one that [`register`] made.
unsafe fn shared(vfs: *mut sqlite3_vfs) -> &'static Shared {
    // SAFETY: there it is what `register` put there, and was leaked.
    unsafe { &*(*vfs).pAppData.cast() }
}

/// The name of a file inside its folder; None for a temporary one.
///
/// # Safety
/// `path` is null or ends with a zero.
unsafe fn file_name(path: *const c_char) -> Option<FileName> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as promised by the caller.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    Some(Path::new(&*path).file_name()?.to_string_lossy().into())
}

/// The platform's file behind ours.
///
/// # Safety
/// `file` is memory for one of ours.
unsafe fn behind(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` asked for room for both; ours is as long as its alignment demands, so the next is aligned too.
    unsafe { file.cast::<Shim>().add(1).cast() }
}

/// The methods of the platform's file behind ours.
///
/// # Safety
/// `file` is an open one of ours.
unsafe fn methods(file: *mut sqlite3_file) -> &'static sqlite3_io_methods {
    // SAFETY: it is open, so the platform's xOpen has set its methods, which are a constant table.
    unsafe { &*(*behind(file)).pMethods }
}

/// # Safety
/// `file` is an open one of ours.
unsafe fn ours<'a>(file: *mut sqlite3_file) -> (&'static Shared, &'a mut Open) {
    // SAFETY: xOpen has set both; SQLite uses a file from one thread at a time.
    unsafe { ((*file.cast::<Shim>()).shared, &mut *(*file.cast::<Shim>()).open) }
}

const HAS_ALL: &str = "SQLite's own file system has every function";

// The functions below are called by SQLite alone, with a table that `register` made and files that `open` opened. That is
// the reason why each unsafe block in them is sound; where there is another, it says so.

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    path: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let real = platform();
    // SAFETY: see above. A temporary file is the platform's own from the start.
    unsafe {
        let open_real = (*real).xOpen.expect(HAS_ALL);
        let Some(name) = file_name(path) else { return open_real(real, path, file, flags, flags_out) };
        (*file).pMethods = ptr::null();
        let code = shared(vfs).open(&name, || {
            let code = open_real(real, path, behind(file), flags, flags_out);
            let mut len = 0;
            if code == ffi::SQLITE_OK {
                methods(file).xFileSize.expect(HAS_ALL)(behind(file), &raw mut len);
            }
            (code, len as u64)
        });
        if code == ffi::SQLITE_OK {
            let may_be_new = flags & ffi::SQLITE_OPEN_CREATE != 0;
            let is_log = flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
            let open = Box::into_raw(Box::new(Open { name, sync_folder: may_be_new && is_log }));
            file.cast::<Shim>().write(Shim {
                base: sqlite3_file { pMethods: &raw const METHODS },
                shared: shared(vfs),
                open,
            });
        }
        code
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, path: *const c_char, sync_folder: c_int) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe {
        let delete_real = (*real).xDelete.expect(HAS_ALL);
        let Some(name) = file_name(path) else { return delete_real(real, path, sync_folder) };
        shared(vfs).delete(&name, sync_folder != 0, || delete_real(real, path, sync_folder))
    }
}

unsafe extern "C" fn access(_: *mut sqlite3_vfs, path: *const c_char, flags: c_int, found: *mut c_int) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xAccess.expect(HAS_ALL)(real, path, flags, found) }
}

unsafe extern "C" fn full_pathname(_: *mut sqlite3_vfs, path: *const c_char, len: c_int, out: *mut c_char) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xFullPathname.expect(HAS_ALL)(real, path, len, out) }
}

unsafe extern "C" fn randomness(_: *mut sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xRandomness.expect(HAS_ALL)(real, len, out) }
}

unsafe extern "C" fn sleep(_: *mut sqlite3_vfs, micros: c_int) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xSleep.expect(HAS_ALL)(real, micros) }
}

unsafe extern "C" fn current_time(_: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xCurrentTime.expect(HAS_ALL)(real, out) }
}

unsafe extern "C" fn current_time_int64(_: *mut sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xCurrentTimeInt64.expect(HAS_ALL)(real, out) }
}

unsafe extern "C" fn last_error(_: *mut sqlite3_vfs, len: c_int, out: *mut c_char) -> c_int {
    let real = platform();
    // SAFETY: see above.
    unsafe { (*real).xGetLastError.expect(HAS_ALL)(real, len, out) }
}

/// Version 2: with shared memory, which a write-ahead log needs, and without mapped files, past which writes would go.
static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above. Nothing uses the file afterwards, so what `open` made of it is freed once.
    unsafe {
        let code = methods(file).xClose.expect(HAS_ALL)(behind(file));
        drop(Box::from_raw((*file.cast::<Shim>()).open));
        code
    }
}

unsafe extern "C" fn read(file: *mut sqlite3_file, into: *mut c_void, len: c_int, at: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see above. SQLite gives a buffer of that length, to be filled whole.
    unsafe {
        let read_real = methods(file).xRead.expect(HAS_ALL);
        match ours(file).0.read_fault() {
            None => read_real(behind(file), into, len, at),
            Some(Fault::Short) => {
                let here = len / 2;
                into.cast::<u8>().add(here as usize).write_bytes(0, (len - here) as usize);
                match read_real(behind(file), into, here, at) {
                    ffi::SQLITE_OK => ffi::SQLITE_IOERR_SHORT_READ,
                    code => code,
                }
            }
            Some(fault) => fault.code(ffi::SQLITE_IOERR_READ),
        }
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, len: c_int, at: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see above. SQLite gives a buffer of that length.
    unsafe {
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), len as usize);
        let (shared, open) = ours(file);
        shared.write(&open.name, at as u64, bytes, |part| {
            methods(file).xWrite.expect(HAS_ALL)(behind(file), part.as_ptr().cast(), part.len() as c_int, at)
        })
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, len: ffi::sqlite3_int64) -> c_int {
    // SAFETY: see above.
    unsafe {
        let (shared, open) = ours(file);
        shared.truncate(&open.name, len as u64, || methods(file).xTruncate.expect(HAS_ALL)(behind(file), len))
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: see above.
    unsafe {
        let (shared, open) = ours(file);
        let folder_too = open.sync_folder;
        let code = shared.sync(&open.name, folder_too, || methods(file).xSync.expect(HAS_ALL)(behind(file), flags));
        open.sync_folder &= code != ffi::SQLITE_OK;
        code
    }
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xFileSize.expect(HAS_ALL)(behind(file), out) }
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xLock.expect(HAS_ALL)(behind(file), level) }
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xUnlock.expect(HAS_ALL)(behind(file), level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xCheckReservedLock.expect(HAS_ALL)(behind(file), out) }
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xFileControl.expect(HAS_ALL)(behind(file), op, arg) }
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xSectorSize.expect(HAS_ALL)(behind(file)) }
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xDeviceCharacteristics.expect(HAS_ALL)(behind(file)) }
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    len: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xShmMap.expect(HAS_ALL)(behind(file), region, len, extend, out) }
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xShmLock.expect(HAS_ALL)(behind(file), offset, count, flags) }
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: see above.
    unsafe { methods(file).xShmBarrier.expect(HAS_ALL)(behind(file)) }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    // SAFETY: see above.
    unsafe { methods(file).xShmUnmap.expect(HAS_ALL)(behind(file), delete) }
}
