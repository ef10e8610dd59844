/**
 * Bindings of the C library through koffi. Not public: wrong arguments can crash the process.
 *
 * koffi is an optional peer dependency. The first use loads it, so importing this module costs nothing.
 */
import { createRequire } from 'node:module';
import { constants, endianness } from 'node:os';
import type { LibraryHandle } from 'koffi';
import { describeThrown } from '../errors.ts';
import { DmaDependencyError, SystemCallError } from './error.ts';

/** The part of koffi's API in use. */
interface Koffi {
  load(path: string | null): LibraryHandle;
  errno(): number;
  view(address: bigint, length: number): ArrayBuffer;
}

type Call = (...values: unknown[]) => number;

/** Constants of mmap(2), memfd_create(2), open(2), pipe2(2) and eventfd(2), equal on all supported architectures. */
export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MFD_CLOEXEC = 1;
export const MFD_ALLOW_SEALING = 2;
export const MFD_HUGETLB = 4;
export const MAP_POPULATE = 0x8000;
/** Bit position of log2(hugepage size) in the flags of memfd_create(2) and mmap(2). */
export const HUGE_SHIFT = 26;
export const EFD_NONBLOCK = 0o4000;
export const EFD_CLOEXEC = 0o2000000;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const F_ADD_SEALS = 1033;
export const F_SEAL_SEAL = 1;
export const F_SEAL_SHRINK = 2;
export const F_SEAL_GROW = 4;

/** Largest buffer in bytes, independent of the engine's own limit. */
export const MAX_VIEW: number = 2 ** 32;

/** System call numbers: x86-64 has its own table; newer architectures share one. */
function policyCalls(): { readonly set: number; readonly get: number } {
  return process.arch === 'x64' ? { set: 238, get: 239 } : { set: 237, get: 236 };
}

/** Architectures where these constants are valid, pointers have 64 bits and byte order is little-endian. */
const ARCHITECTURES: readonly string[] = ['x64', 'arm64', 'riscv64', 'loong64'];

/** Addresses are plain numbers: user space ends at 2^47 or 2^52, depending on the machine. */
export class Libc {
  readonly #koffi: Koffi;
  readonly #mmap: Call;
  readonly #munmap: Call;
  readonly #memfdCreate: Call;
  readonly #fcntl: Call;
  readonly #ioctl: Call;
  readonly #eventfd: Call;
  readonly #fallocate: Call;
  readonly #lseek: Call;
  readonly #getpagesize: Call;
  readonly #eventfdRead: Call;
  readonly #pipe: Call;
  readonly #dup3: Call;
  readonly #close: Call;
  readonly #syscall: Call;
  readonly #events = new Uint8Array(8);

  constructor(koffi: Koffi) {
    this.#koffi = koffi;
    const library = koffi.load(null);
    const bind = (definition: string): Call => library.func(definition) as Call;
    // Addresses are integers: koffi would wrap pointers in objects.
    this.#mmap = bind(
      'intptr_t mmap(intptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
    );
    this.#munmap = bind('int munmap(intptr_t address, size_t length)');
    this.#memfdCreate = bind('int memfd_create(const char *name, unsigned int flags)');
    this.#fcntl = bind('int fcntl(int fd, int command, ...)');
    this.#ioctl = bind('int ioctl(int fd, unsigned long request, ...)');
    this.#eventfd = bind('int eventfd(unsigned int value, int flags)');
    this.#fallocate = bind('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
    this.#lseek = bind('int64_t lseek(int fd, int64_t offset, int whence)');
    this.#getpagesize = bind('int getpagesize()');
    this.#eventfdRead = bind('int eventfd_read(int fd, void *value)');
    this.#pipe = bind('int pipe2(void *fds, int flags)');
    this.#dup3 = bind('int dup3(int from, int to, int flags)');
    this.#close = bind('int close(int fd)');
    this.#syscall = bind('long syscall(long number, ...)');
  }

  /** Maps memory and returns its address. @param address 0 for any. @throws {@link SystemCallError} */
  mmap(address: number, length: number, protection: number, flags: number, fd = -1, offset = 0): number {
    const result = this.#mmap(address, length, protection, flags, fd, offset);
    return this.#checked('mmap', result, `can't map ${String(length)} bytes of memory`);
  }

  /** Unmaps memory. Never use it on memory that has a JavaScript view. @throws {@link SystemCallError} */
  munmap(address: number, length: number): void {
    this.#checked('munmap', this.#munmap(address, length), `can't unmap ${String(length)} bytes of memory`);
  }

  /** Creates an unnamed memory file, which `fs.closeSync` closes. @throws {@link SystemCallError} */
  memfdCreate(name: string, flags: number): number {
    return this.#checked('memfd_create', this.#memfdCreate(name, flags), `can't create the memory file ${name}`);
  }

  /** Seals a memory file irrevocably. @throws {@link SystemCallError} */
  addSeals(fd: number, seals: number): void {
    this.#checked('fcntl', this.#fcntl(fd, F_ADD_SEALS, 'int', seals), `can't seal the memory file`);
  }

  /**
   * ioctl(2) with a structure or a number.
   * @param purpose The action as a clause, for the error: `can't reset the device`.
   * @throws {@link SystemCallError}
   */
  ioctl(fd: number, request: number, argument: Uint8Array | number, purpose: string): number {
    const result =
      typeof argument === 'number'
        ? this.#ioctl(fd, request, 'long', argument)
        : this.#ioctl(fd, request, 'void *', argument);
    return this.#checked('ioctl', result, purpose);
  }

  /**
   * Finds the next data of a sparse file at or after an offset. Returns the half-open range, or null if there is none.
   *
   * @throws {@link SystemCallError}
   */
  nextData(fd: number, offset: number): { readonly begin: number; readonly end: number } | null {
    const begin = this.#lseek(fd, offset, SEEK_DATA);
    if (begin < 0 && this.#koffi.errno() === constants.errno.ENXIO) return null;
    const purpose = "can't find data in the file";
    const end = this.#checked('lseek', this.#lseek(fd, this.#checked('lseek', begin, purpose), SEEK_HOLE), purpose);
    return { begin, end };
  }

  /** Creates an event counter: a write of 8 bytes adds to it, a read resets it. @throws {@link SystemCallError} */
  eventfd(value: number, flags: number): number {
    return this.#checked('eventfd', this.#eventfd(value, flags), `can't create an event counter`);
  }

  /** Resets an event counter made with `EFD_NONBLOCK`. Returns false if it was zero. */
  takeEvents(fd: number): boolean {
    return this.#eventfdRead(fd, this.#events) === 0;
  }

  /** Creates a pipe: the descriptors for reading and writing. @throws {@link SystemCallError} */
  pipe(): readonly [reading: number, writing: number] {
    const fds = new Int32Array(2);
    this.#checked('pipe2', this.#pipe(fds, O_NONBLOCK | O_CLOEXEC), "can't create a pipe");
    return [fds[0]!, fds[1]!];
  }

  /** Makes the descriptor `to` one of the file of `from`, in place of its own. @throws {@link SystemCallError} */
  replace(to: number, from: number): void {
    this.#checked('dup3', this.#dup3(from, to, O_CLOEXEC), `can't replace descriptor ${String(to)}`);
  }

  /** Closes a descriptor that this class made. `fs.closeSync` warns of it in workers. */
  close(fd: number): void {
    this.#close(fd);
  }

  /** Allocates the memory of a file, so that later accesses can't fail. @throws {@link SystemCallError} `ENOSPC` */
  fallocate(fd: number, length: number): void {
    this.#checked('fallocate', this.#fallocate(fd, 0, 0, length), `can't allocate ${String(length)} bytes of memory`);
  }

  /** Bytes of an ordinary page. */
  pageSize(): number {
    return this.#getpagesize();
  }

  /** set_mempolicy(2) of this thread; the C library has no wrapper. @throws {@link SystemCallError} */
  setMemoryPolicy(mode: number, nodes: Uint8Array): void {
    const result = this.#syscall(policyCalls().set, 'int', mode, 'void *', nodes, 'unsigned long', nodes.length * 8);
    this.#checked('set_mempolicy', result, "can't set the thread's NUMA policy");
  }

  /** get_mempolicy(2) of this thread: returns the mode and fills in the node mask. @throws {@link SystemCallError} */
  getMemoryPolicy(nodes: Uint8Array): number {
    const mode = new Uint8Array(4);
    const bits = nodes.length * 8;
    const arguments_ = ['void *', mode, 'void *', nodes, 'unsigned long', bits, 'void *', null, 'unsigned long', 0];
    this.#checked('get_mempolicy', this.#syscall(policyCalls().get, ...arguments_), "can't read the NUMA policy");
    return new DataView(mode.buffer).getInt32(0, true);
  }

  /**
   * Returns a buffer on mapped memory. It is valid while the address range is mapped.
   * @param length At most {@link MAX_VIEW}: koffi aborts the process beyond it.
   */
  view(address: number, length: number): ArrayBuffer {
    if (length > MAX_VIEW)
      throw new RangeError(`a buffer has at most ${String(MAX_VIEW)} bytes, not ${String(length)}`);
    return this.#koffi.view(BigInt(address), length);
  }

  #checked(syscall: string, result: number, purpose: string): number {
    if (result === -1) throw new SystemCallError(syscall, this.#koffi.errno(), purpose);
    return result;
  }
}

let loaded: Libc | undefined;

/**
 * Returns the C library.
 * @param load Loads koffi; tests replace it.
 * @throws {@link DmaDependencyError} when koffi is missing or does not load, or the system is not 64-bit Linux.
 */
export function libc(load?: () => unknown): Libc {
  if (loaded !== undefined && load === undefined) return loaded;
  checkPlatform(process.platform, process.arch);
  const made = new Libc(loadKoffi(load ?? (() => createRequire(import.meta.url)('koffi') as unknown)));
  if (load === undefined) loaded = made;
  return made;
}

/** Throws on platforms without mapped memory. @throws {@link DmaDependencyError} */
export function checkPlatform(platform: string, arch: string): void {
  if (platform === 'linux' && ARCHITECTURES.includes(arch) && endianness() === 'LE') return;
  const message = `mapped memory needs Linux on one of ${ARCHITECTURES.join(', ')}; this is ${platform} on ${arch}`;
  throw new DmaDependencyError('koffi', message);
}

function loadKoffi(load: () => unknown): Koffi {
  try {
    return load() as Koffi;
  } catch (error) {
    const missing = (error as { code?: unknown } | null)?.code === 'MODULE_NOT_FOUND';
    const words = error instanceof Error ? error.message.split('\n')[0]! : describeThrown(error);
    const message = missing
      ? 'mapped memory (QEMU, VFIO, hugepages) needs the package koffi, which is not installed: npm install koffi'
      : `mapped memory needs the package koffi, which can't be loaded (${words}); try: npm install koffi@3`;
    throw new DmaDependencyError('koffi', message, { cause: error });
  }
}
