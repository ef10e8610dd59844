/** Helpers for tests in the virtual machine. */

import assert from 'node:assert/strict';
import { it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runInVm, vmUnavailable, type VmResult } from '../../scripts/vm/run.ts';
import type { VmOptions } from '../../scripts/vm/options.ts';

/** The reason to skip tests in the machine, or `false`. With DMAPOOL_REQUIRE_TOOLS=1 they run, and fail for that reason. */
export const vmSkip: string | false = process.env['DMAPOOL_REQUIRE_TOOLS'] === '1' ? false : (vmUnavailable() ?? false);

/** Registers a test that needs the machine. */
export function itInVm(name: string, test: (context: TestContext) => Promise<void>, timeout = 300_000): void {
  void it(name, { skip: vmSkip, timeout }, test);
}

/** Runs a shell script in the machine. */
export function shellInVm(script: string, options: Omit<VmOptions, 'command'> = {}): Promise<VmResult> {
  return runInVm({ timeout: 240_000, ...options, command: ['sh', '-c', script] });
}

/** Registers a test that runs a file of tests in the machine. It fails with their output if one of them fails. */
export function testsInVm(name: string, file: URL, options: Omit<VmOptions, 'command'> = {}): void {
  const { timeout = 240_000 } = options;
  const run = async (context: TestContext): Promise<void> => {
    const command = [process.execPath, '--enable-source-maps', '--test-reporter=spec', fileURLToPath(file)];
    const { exitCode, stdout, stderr, accelerator, stages } = await runInVm({ ...options, timeout, command });
    const seconds = ((stages.at(-1)?.at ?? 0) / 1000).toFixed(1);
    context.diagnostic(`${accelerator}, ${seconds} s: ${/tests \d+/.exec(stdout)?.[0] ?? 'no tests'}`);
    assert.equal(exitCode, 0, `${stdout}\n${stderr}`);
    assert.match(stdout, /^. pass [1-9]\d*$/m, 'at least one test ran');
    assert.match(stdout, /^. skipped 0$/m, 'no test was skipped');
  };
  // The machine's own timeout is the shorter one: its error has the output.
  itInVm(`${name}, in the virtual machine`, run, timeout + 60_000);
}
