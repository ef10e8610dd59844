/**
 * dmapool/qemu: QEMU's device models as a test bench for drivers. Needs QEMU and the package koffi.
 *
 * @module dmapool/qemu
 * @packageDocumentation
 */
export { DmaDependencyError, SystemCallError } from '../linux/error.ts';
export { QemuError, type QemuErrorCode } from './error.ts';
export { QemuMachine, type QemuPciFunction, type UnplugOptions } from './machine.ts';
export type { QemuStrayWrite } from './memory-watch.ts';
export type { QemuDrive, QemuMachineOptions, QemuOption, QemuOptionObject } from './options.ts';
