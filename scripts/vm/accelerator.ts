/** Whether the processor runs the guest itself (KVM) or QEMU translates it (TCG). */

import { closeSync, constants, openSync, readFileSync } from 'node:fs';

/** How the guest is run, and why. */
export interface Accelerator {
  readonly name: 'kvm' | 'tcg';
  /** Reason for people, such as `KVM` or `TCG: /dev/kvm does not exist`. */
  readonly why: string;
  /** Asked for by the user: no other is tried. */
  readonly forced?: boolean;
}

/**
 * KVM where /dev/kvm opens and the processor has VMX or SVM; else TCG.
 *
 * A KVM without either (pagetable-based virtual machines, as some clouds have) opens but only runs kernels made for it.
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

/** QEMU's options for it. A split interrupt controller is what interrupt remapping needs under KVM. */
export function acceleratorArguments(name: 'kvm' | 'tcg'): string[] {
  return name === 'kvm'
    ? ['-accel', 'kvm', '-cpu', 'host']
    : // `max` has what V8 likes to use; QEMU translates it faster than code for older processors.
      ['-accel', 'tcg,thread=multi', '-cpu', 'max'];
}
