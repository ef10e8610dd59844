/** Selects the accelerator: KVM executes the guest's instructions on the processor, TCG translates them. */

import { closeSync, constants, openSync, readFileSync } from 'node:fs';

/** An accelerator and the reason for its selection. */
export interface Accelerator {
  readonly name: 'kvm' | 'tcg';
  /** The reason as a message, such as `KVM` or `TCG: /dev/kvm does not open (ENOENT)`. */
  readonly why: string;
  /** Selected by the user. No other accelerator is tried. */
  readonly forced?: boolean;
}

/**
 * Returns KVM if /dev/kvm opens and the processor has VMX or SVM, otherwise TCG.
 *
 * On hosts with a KVM for paravirtualized kernels only (pvm), /dev/kvm opens although the processor has neither.
 */
export function chooseAccelerator(): Accelerator {
  try {
    closeSync(openSync('/dev/kvm', constants.O_RDWR));
  } catch (error) {
    return { name: 'tcg', why: `TCG: /dev/kvm does not open (${(error as NodeJS.ErrnoException).code ?? 'unknown'})` };
  }
  if (!/^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'latin1'))) {
    return { name: 'tcg', why: 'TCG: /dev/kvm opens, but the processor shows neither VMX nor SVM' };
  }
  return { name: 'kvm', why: 'KVM' };
}

/** Returns QEMU's options for an accelerator. */
export function acceleratorArguments(name: 'kvm' | 'tcg'): string[] {
  return name === 'kvm'
    ? ['-accel', 'kvm', '-cpu', 'host']
    : // V8 uses the instructions of `max` (SSE 4, AVX), which QEMU translates faster than the older equivalents.
      ['-accel', 'tcg,thread=multi', '-cpu', 'max'];
}
