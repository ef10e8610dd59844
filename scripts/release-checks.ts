/** Preconditions of a release, as a pure function for tests. */

/** State of the working tree and the environment. */
export interface ReleaseFacts {
  /** Parsed package.json. */
  readonly manifest: { readonly version: string; readonly repository?: unknown };
  /** Version in package-lock.json. */
  readonly lockedVersion: string;
  /** Text of CHANGELOG.md. */
  readonly changelog: string;
  /** Tags of the current commit. */
  readonly tags: readonly string[];
  /** Output of `git status --porcelain`; empty if everything is committed. */
  readonly changes: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Lists the obstacles to a release, each with its remedy. */
export function releaseProblems(facts: ReleaseFacts): string[] {
  const { manifest, lockedVersion, changelog, tags, changes, env } = facts;
  const { version, repository } = manifest;
  const problems: string[] = [];
  if (lockedVersion !== version) {
    problems.push(`package-lock.json has version ${lockedVersion}, package.json ${version}: npm install`);
  }
  if (changes !== '') problems.push(`there are uncommitted changes:\n${changes.trimEnd()}`);
  if (!tags.includes(`v${version}`)) problems.push(`this commit is not tagged v${version}: git tag v${version}`);
  if (!new RegExp(`^## ${version.replaceAll('.', '\\.')} \\(\\d{4}-\\d{2}-\\d{2}\\)$`, 'm').test(changelog)) {
    problems.push(`CHANGELOG.md has no heading "## ${version} (YYYY-MM-DD)"`);
  }
  if (repository === undefined) {
    problems.push('package.json names no repository, which npm requires for provenance: npm pkg set repository=…');
  }
  if (!canSignProvenance(env)) {
    problems.push(
      'npm signs provenance with the identity of a CI job: publish from GitHub Actions with `id-token: write`, ' +
        'or from GitLab CI with an id token SIGSTORE_ID_TOKEN for sigstore',
    );
  }
  return problems;
}

/** True in a CI job whose identity npm accepts for provenance. */
function canSignProvenance(env: ReleaseFacts['env']): boolean {
  const given = (name: string): boolean => (env[name] ?? '') !== '';
  return (
    (given('GITHUB_ACTIONS') && given('ACTIONS_ID_TOKEN_REQUEST_URL')) ||
    (given('GITLAB_CI') && given('SIGSTORE_ID_TOKEN'))
  );
}
