import { getSystemErrorMap } from 'node:util';
import { DmaError } from '../errors.ts';

/** An optional package that this part needs is not installed, or does not run here. The message says what to do. */
export class DmaDependencyError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_DEPENDENCY';
  /** The package's name on npm. */
  readonly dependency: string;

  constructor(dependency: string, message: string, options?: ErrorOptions) {
    super('ERR_DMAPOOL_DEPENDENCY', message, options);
    this.dependency = dependency;
  }
}

/** A system call failed. */
export class SystemCallError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_SYSTEM_CALL';
  /** The call, such as `mmap`. */
  readonly syscall: string;
  /** Number of the error, positive, as in errno(3). */
  readonly errno: number;
  /** Name of the error, such as `ENOMEM`. */
  readonly errnoName: string;

  /** @param purpose What could not be done, as a clause: `can't map 4096 bytes`. */
  constructor(syscall: string, errno: number, purpose: string) {
    const [name, words] = getSystemErrorMap().get(-errno) ?? [`errno ${String(errno)}`, 'unknown error'];
    super('ERR_DMAPOOL_SYSTEM_CALL', `${purpose}: ${syscall}: ${name}, ${words}`);
    this.syscall = syscall;
    this.errno = errno;
    this.errnoName = name;
  }
}

/**
 * Memory of hugepages can't be had: too few are free (`ERR_DMAPOOL_NO_HUGEPAGES`; the message has the command that
 * reserves more), or their physical addresses are not shown (`ERR_DMAPOOL_FRAMES_HIDDEN`).
 */
export class HugepageError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_NO_HUGEPAGES' | 'ERR_DMAPOOL_FRAMES_HIDDEN';

  /**
   * @param code Which of the two.
   * @param message What is wrong and what to do.
   * @param options The cause, if another error was.
   */
  constructor(code: 'ERR_DMAPOOL_NO_HUGEPAGES' | 'ERR_DMAPOOL_FRAMES_HIDDEN', message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}

/** Why a PCI function was not handed over between drivers. */
export type BindErrorCode =
  | 'ERR_DMAPOOL_BIND_IN_USE'
  | 'ERR_DMAPOOL_BIND_GROUP'
  | 'ERR_DMAPOOL_BIND_NO_IOMMU'
  | 'ERR_DMAPOOL_BIND_PERMISSION'
  | 'ERR_DMAPOOL_BIND_FAILED';

/**
 * A PCI function was not handed to or taken from vfio-pci: the system or a process uses it (`ERR_DMAPOOL_BIND_IN_USE`),
 * others of its IOMMU group stand in the way (`ERR_DMAPOOL_BIND_GROUP`), there is no IOMMU (`ERR_DMAPOOL_BIND_NO_IOMMU`),
 * it takes root (`ERR_DMAPOOL_BIND_PERMISSION`), or the kernel refused (`ERR_DMAPOOL_BIND_FAILED`).
 */
export class BindError extends DmaError {
  declare readonly code: BindErrorCode;
  /** Address of the function. */
  readonly address: string;

  /**
   * @param code Why.
   * @param address Address of the function.
   * @param message What is wrong and what to do.
   * @param options The cause, if another error was.
   */
  constructor(code: BindErrorCode, address: string, message: string, options?: ErrorOptions) {
    super(code, `${address}: ${message}`, options);
    this.address = address;
  }
}

/** Why a PCI function can't be had through VFIO. */
export type VfioErrorCode =
  | 'ERR_DMAPOOL_VFIO_NO_IOMMU'
  | 'ERR_DMAPOOL_VFIO_NOT_BOUND'
  | 'ERR_DMAPOOL_VFIO_PERMISSION'
  | 'ERR_DMAPOOL_VFIO_GROUP'
  | 'ERR_DMAPOOL_VFIO_MEMLOCK'
  | 'ERR_DMAPOOL_VFIO_UNSUPPORTED';

/**
 * A PCI function can't be had through VFIO: no IOMMU is in use (`ERR_DMAPOOL_VFIO_NO_IOMMU`), another driver has it
 * (`ERR_DMAPOOL_VFIO_NOT_BOUND`), the group's file is not this user's (`ERR_DMAPOOL_VFIO_PERMISSION`), the kernel's
 * drivers have others of its group (`ERR_DMAPOOL_VFIO_GROUP`), more memory would be locked than this process may
 * (`ERR_DMAPOOL_VFIO_MEMLOCK`), or the kernel lacks what it takes (`ERR_DMAPOOL_VFIO_UNSUPPORTED`).
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
