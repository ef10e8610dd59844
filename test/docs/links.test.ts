/** Links in documents refer to existing files, and to existing headings in them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { root } from './entry-points.ts';

const documents = execFileSync('git', ['ls-files', '-z', '-co', '--exclude-standard', '*.md'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\0')
  .filter((file) => file !== '' && existsSync(join(root, file)));

/** The text without blocks of code. */
function proseOf(file: string): string {
  return readFileSync(join(root, file), 'utf8').replace(/^```.*?^```$/gms, '');
}

/** The anchors of the headings, in the form that forges generate. */
function anchorsOf(file: string): string[] {
  return [...proseOf(file).matchAll(/^#+ +(.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\- _]/gu, '')
      .replaceAll(' ', '-'),
  );
}

for (const document of documents) {
  test(`links in ${document}`, () => {
    const broken: string[] = [];
    for (const [, link] of proseOf(document).matchAll(/\]\(([^()\s]+)\)/g)) {
      if (/^[a-z]+:/.test(link!)) continue;
      const [path, anchor] = link!.split('#') as [string, string?];
      const target = path === '' ? document : join(dirname(document), decodeURI(path));
      if (!existsSync(join(root, target))) broken.push(`${link!}: no such file`);
      else if (anchor !== undefined && target.endsWith('.md') && !anchorsOf(target).includes(anchor)) {
        broken.push(`${link!}: no such heading`);
      }
    }
    assert.deepEqual(broken, []);
  });
}
