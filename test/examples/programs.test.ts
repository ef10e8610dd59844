/** Each program in `examples/` runs as it stands, is short, and prints what its guide says. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assertPrinted } from '../docs/printed.ts';
import { directIoFolder, withoutDirectIo } from '../support/direct-io.ts';
import { EXAMPLE_PROGRAMS, generalOutput } from '../support/examples.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const direct = directIoFolder();

for (const { name, output } of EXAMPLE_PROGRAMS) {
  const skip = name === 'direct-io' && withoutDirectIo(direct);
  test(`examples/${name}`, { skip, timeout: 60_000 }, () => {
    const args = name === 'direct-io' ? [direct ?? '.'] : [];
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, `dist/examples/${name}.js`), ...args], {
      encoding: 'utf8',
      cwd: root,
    });
    assert.equal(status, 0, stderr);
    assertPrinted(generalOutput(stdout), output);
  });
}

test('every program at the top of examples/ is tested, listed in the guide, and has at most 150 lines', () => {
  const files = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.ts'));
  assert.deepEqual(files.sort(), EXAMPLE_PROGRAMS.map(({ name }) => `${name}.ts`).sort());
  const guide = readFileSync(join(root, 'docs/examples.md'), 'utf8');
  for (const file of files) {
    const lines = readFileSync(join(root, `examples/${file}`), 'utf8').split('\n').length - 1;
    assert.ok(lines <= 150, `${file}: ${String(lines)} lines`);
    assert.ok(guide.includes(`../examples/${file}`), `docs/examples.md has ${file}`);
  }
});
