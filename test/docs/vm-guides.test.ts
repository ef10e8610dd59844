/** The guides about devices work as written, in the virtual machine. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { OWN_FILES } from '../support/own-files.ts';
import { itInVm } from '../vm/machine.ts';
import { root } from './entry-points.ts';
import { followGuide, type Step } from './vm-guide.ts';

itInVm('the guide "your first VFIO driver" works as written', async (context) => {
  await followGuide(context, 'first-vfio-driver.md', { leastSteps: 7 });
});

itInVm('the part of "your first driver" about VFIO works as written', async (context) => {
  await followGuide(context, 'first-driver.md', { from: '## The same driver through VFIO', leastSteps: 1 });
});

/** A Node with the permission model as docs/permissions.md describes it. */
const NODE_26 = join(
  process.env['DMAPOOL_RUNTIMES'] ?? join(root, 'test', 'runtimes', 'node_modules'),
  'node-26',
  'bin',
  'node',
);

/** The driver under Node's permission model, before the function is unbound. */
function withPermissions(steps: readonly Step[]): readonly Step[] {
  const flags = [...OWN_FILES, '/sys/*', '/proc/*', '/dev/vfio/*'].map((path) => `--allow-fs-read='${path}'`).join(' ');
  const program = `${NODE_26} --permission --no-warnings --allow-addons --allow-fs-write='/dev/vfio/*' ${flags} first-driver/open.mjs 0000:00:10.0`;
  const step = { commands: `su driver -c "${program}"\n`, output: 'root: false; identification 10000ed\n' };
  return [...steps.slice(0, -1), step, ...steps.slice(-1)];
}

itInVm('the guide "VFIO without root" works as written, also under the permission model', async (context) => {
  const change = existsSync(NODE_26) ? { change: withPermissions } : {};
  await followGuide(context, 'vfio-without-root.md', { leastSteps: 7, ...change });
});
