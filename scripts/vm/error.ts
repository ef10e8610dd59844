/** What can go wrong with the virtual machine, apart from the command that runs in it. */

/**
 * - `ERR_VM_TOOL`: a program is missing or refused; the message names the package that has it.
 * - `ERR_VM_KERNEL`: there is no kernel to boot, and the message says how to get one.
 * - `ERR_VM_OPTION`: an option makes no sense; nothing was started.
 * - `ERR_VM_BOOT`: the machine did not come as far as the command.
 * - `ERR_VM_CRASH`: the machine ended without the command's exit code, such as after a kernel panic.
 * - `ERR_VM_TIMEOUT`: the command took longer than it was given; the machine was ended.
 * - `ERR_VM_ABORT`: the caller's signal ended the machine.
 */
export type VmErrorCode =
  | 'ERR_VM_TOOL'
  | 'ERR_VM_KERNEL'
  | 'ERR_VM_OPTION'
  | 'ERR_VM_BOOT'
  | 'ERR_VM_CRASH'
  | 'ERR_VM_TIMEOUT'
  | 'ERR_VM_ABORT';

/** What was seen of a machine until it ended. */
export interface VmOutput {
  /** What the command wrote to its standard output. */
  readonly stdout: string;
  /** What the command wrote to its standard error. */
  readonly stderr: string;
  /** The guest's kernel log, a line for each message, as `dmesg` prints it. */
  readonly kernelLog: string;
  /** What appeared on the serial console: the firmware's and early kernel's messages, and warnings. */
  readonly console: string;
}

/** The machine could not be started or did not end as it should. */
export class VmError extends Error {
  readonly code: VmErrorCode;
  /** What was seen until then; absent if no machine was started. */
  readonly output: VmOutput | undefined;

  constructor(code: VmErrorCode, message: string, output?: VmOutput, options?: ErrorOptions) {
    super(message, options);
    this.name = 'VmError';
    this.code = code;
    this.output = output;
  }
}
