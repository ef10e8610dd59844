/** Errors of the virtual machine. A failure of the command in it is an exit code, not an error. */

/**
 * - `ERR_VM_TOOL`: a program is missing or failed. The message names the package of a missing program.
 * - `ERR_VM_KERNEL`: there is no kernel to boot. The message states how to get one.
 * - `ERR_VM_OPTION`: an option is invalid. Nothing was started.
 * - `ERR_VM_BOOT`: the machine failed before it started the command.
 * - `ERR_VM_CRASH`: the machine ended without an exit code of the command, for example after a kernel panic.
 * - `ERR_VM_TIMEOUT`: the command exceeded its time limit. The machine was killed.
 * - `ERR_VM_ABORT`: the caller's `AbortSignal` killed the machine.
 */
export type VmErrorCode =
  | 'ERR_VM_TOOL'
  | 'ERR_VM_KERNEL'
  | 'ERR_VM_OPTION'
  | 'ERR_VM_BOOT'
  | 'ERR_VM_CRASH'
  | 'ERR_VM_TIMEOUT'
  | 'ERR_VM_ABORT';

/** The output of a machine up to its end. */
export interface VmOutput {
  /** The command's standard output. */
  readonly stdout: string;
  /** The command's standard error. */
  readonly stderr: string;
  /** The guest's kernel log, one line per message, in the format of `dmesg`. */
  readonly kernelLog: string;
  /** The output of the serial console: messages of the firmware and the early kernel, and the kernel's warnings. */
  readonly console: string;
}

/** The machine did not start, or did not end with an exit code of the command. */
export class VmError extends Error {
  readonly code: VmErrorCode;
  /** The output up to the failure; undefined if no machine was started. */
  readonly output: VmOutput | undefined;

  constructor(code: VmErrorCode, message: string, output?: VmOutput, options?: ErrorOptions) {
    super(message, options);
    this.name = 'VmError';
    this.code = code;
    this.output = output;
  }
}
