import { getSystemErrorMap } from 'node:util';
import { DmaError } from '../errors.ts';

/** A required optional package is not installed or does not load. The message names the remedy. */
export class DmaDependencyError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_DEPENDENCY';
  /** Package name on npm. */
  readonly dependency: string;

  constructor(dependency: string, message: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_DEPENDENCY', message, options);
    this.dependency = dependency;
  }
}

/** A system call failed. */
export class SystemCallError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_SYSTEM_CALL';
  /** The system call, such as `mmap`. */
  readonly syscall: string;
  /** Error number, positive, as in errno(3). */
  readonly errno: number;
  /** Name of the error number, such as `ENOMEM`. */
  readonly errnoName: string;

  /** @param purpose The failed action as a clause: `can't map 4096 bytes`. */
  constructor(syscall: string, errno: number, purpose: string) {
    const [name, words] = getSystemErrorMap().get(-errno) ?? [`errno ${String(errno)}`, 'unknown error'];
    super('ERR_DMAPOOL_SYSTEM_CALL', `${purpose}: ${syscall}: ${name}, ${words}`);
    this.syscall = syscall;
    this.errno = errno;
    this.errnoName = name;
  }
}

/**
 * Hugepages are not available: too few are free (`ERR_DMAPOOL_NO_HUGEPAGES`; the message has the command that reserves
 * more), or the kernel hides their physical addresses (`ERR_DMAPOOL_FRAMES_HIDDEN`).
 */
export class HugepageError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_NO_HUGEPAGES' | 'ERR_DMAPOOL_FRAMES_HIDDEN';

  /**
   * @param code The error code.
   * @param message The problem and the remedy.
   * @param options The cause, if there is one.
   */
  constructor(code: 'ERR_DMAPOOL_NO_HUGEPAGES' | 'ERR_DMAPOOL_FRAMES_HIDDEN', message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}

/** Codes of {@link BindError}. */
export type BindErrorCode =
  | 'ERR_DMAPOOL_BIND_IN_USE'
  | 'ERR_DMAPOOL_BIND_GROUP'
  | 'ERR_DMAPOOL_BIND_NO_IOMMU'
  | 'ERR_DMAPOOL_BIND_PERMISSION'
  | 'ERR_DMAPOOL_BIND_FAILED';

/**
 * A PCI function can't be bound to or unbound from vfio-pci: the system or a process uses it
 * (`ERR_DMAPOOL_BIND_IN_USE`), it is a bridge or other functions block its IOMMU group (`ERR_DMAPOOL_BIND_GROUP`),
 * there is no IOMMU (`ERR_DMAPOOL_BIND_NO_IOMMU`), root is needed (`ERR_DMAPOOL_BIND_PERMISSION`), or the kernel
 * refused (`ERR_DMAPOOL_BIND_FAILED`).
 */
export class BindError extends DmaError {
  declare readonly code: BindErrorCode;
  /** Address of the function. */
  readonly address: string;

  /**
   * @param code The error code.
   * @param address Address of the function.
   * @param message The problem and the remedy.
   * @param options The cause, if there is one.
   */
  constructor(code: BindErrorCode, address: string, message: string, options?: ErrorOptions) {
    super(code, `${address}: ${message}`, options);
    this.address = address;
  }
}

/** Codes of {@link VfioError}. */
export type VfioErrorCode =
  | 'ERR_DMAPOOL_VFIO_NO_IOMMU'
  | 'ERR_DMAPOOL_VFIO_NOT_BOUND'
  | 'ERR_DMAPOOL_VFIO_PERMISSION'
  | 'ERR_DMAPOOL_VFIO_GROUP'
  | 'ERR_DMAPOOL_VFIO_MEMLOCK'
  | 'ERR_DMAPOOL_VFIO_UNSUPPORTED';

/**
 * A PCI function can't be opened through VFIO: no IOMMU is in use (`ERR_DMAPOOL_VFIO_NO_IOMMU`), it has another driver
 * (`ERR_DMAPOOL_VFIO_NOT_BOUND`), this user may not open the group's file (`ERR_DMAPOOL_VFIO_PERMISSION`), kernel
 * drivers are bound to other functions of its group (`ERR_DMAPOOL_VFIO_GROUP`), its memory would exceed the process's
 * memlock limit (`ERR_DMAPOOL_VFIO_MEMLOCK`), or the kernel lacks a required feature (`ERR_DMAPOOL_VFIO_UNSUPPORTED`).
 */
export class VfioError extends DmaError {
  declare readonly code: VfioErrorCode;
  /** Address of the function. */
  readonly address: string;

  constructor(code: VfioErrorCode, address: string, message: string, options?: ErrorOptions) {
    super(code, `${address}: ${message}`, options);
    this.address = address;
  }
}
