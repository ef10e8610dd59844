/** Tests in the virtual machine: skipped where it can't run, or failing if DMAPOOL_REQUIRE_TOOLS=1. */

import { it, type TestContext } from 'node:test';
import { runInVm, vmUnavailable, type VmResult } from '../../scripts/vm/run.ts';
import type { VmOptions } from '../../scripts/vm/options.ts';

/** Why tests in the machine are skipped, or `false`. With DMAPOOL_REQUIRE_TOOLS=1 they run, and fail by themselves. */
export const vmSkip: string | false = process.env['DMAPOOL_REQUIRE_TOOLS'] === '1' ? false : (vmUnavailable() ?? false);

/** A test that needs the machine. */
export function itInVm(name: string, test: (context: TestContext) => Promise<void>): void {
  void it(name, { skip: vmSkip, timeout: 300_000 }, test);
}

/** Runs a shell script in the machine. */
export function shellInVm(script: string, options: Omit<VmOptions, 'command'> = {}): Promise<VmResult> {
  return runInVm({ timeout: 240_000, ...options, command: ['sh', '-c', script] });
}
