@echo off
rem Creates .venv next to this file and installs requirements.txt into it, in the versions that were
rem tested (tests\constraints.txt). Run it again to update or repair .venv. To choose the Python that
rem creates it, set PYTHON to the path of a python.exe.
setlocal EnableExtensions DisableDelayedExpansion
rem A relative PYTHON is relative to the folder in which this was started.
if not defined PYTHON goto own_folder
for %%P in ("%PYTHON:"=%") do if exist "%%~fP" set "PYTHON=%%~fP"

:own_folder
rem From here on, paths are relative: "call" would expand a %% or ^ in this folder's path again.
pushd "%~dp0"
set "VENV=.venv"
set "VENV_PYTHON=.venv\Scripts\python.exe"
if not exist requirements.txt goto no_requirements
rem Each of these makes pip install elsewhere, partially, or not at all. PIP_INDEX_URL and the
rem like are kept.
for %%V in (TARGET PREFIX ROOT USER PYTHON DRY_RUN NO_DEPS) do set "PIP_%%V="

rem pip doesn't run if .venv is incomplete.
if not exist "%VENV_PYTHON%" goto find_python
"%VENV_PYTHON%" -I -c "import sys; sys.exit(sys.version_info < (3, 10))" >nul 2>&1
if %ERRORLEVEL% neq 0 goto find_python
"%VENV_PYTHON%" -I -m pip --version >nul 2>&1
if %ERRORLEVEL% neq 0 goto find_python
goto install

:find_python
set "OLD="
set "WITHOUT_VENV="
if defined PYTHON goto named_python
set "PY=py"
set "PY_OPTION=-3"
call :probe
if %ERRORLEVEL% equ 0 goto make_venv
set "PY=python"
set "PY_OPTION="
call :probe
if %ERRORLEVEL% equ 0 goto make_venv
goto no_python

:named_python
set "PY=%PYTHON:"=%"
set "PY_OPTION="
call :probe
if %ERRORLEVEL% equ 0 goto make_venv
if defined WITHOUT_VENV goto no_venv_module
if defined OLD goto named_old
echo installboto: PYTHON="%PY%" can't be run; set it to the path of python.exe from Python 3.10 or later, or unset it>&2
exit /b 1

:named_old
echo installboto: Python 3.10 or later is required, but PYTHON="%PY%" is older; set it to a newer one, or unset it>&2
exit /b 1

:no_python
if defined WITHOUT_VENV goto no_venv_module
if defined OLD goto python_too_old
echo installboto: Python not found; install Python 3.10 or later from https://www.python.org/downloads/ and run this again>&2
exit /b 1

:no_venv_module
echo installboto: "%WITHOUT_VENV%" has no venv module; install Python 3.10 or later from https://www.python.org/downloads/ and run this again>&2
exit /b 1

:python_too_old
echo installboto: Python 3.10 or later is required, but "%OLD%" is older; install a newer one from https://www.python.org/downloads/ and run this again>&2
exit /b 1

:make_venv
call "%PY%" %PY_OPTION% -I -m venv --clear "%VENV%"
if %ERRORLEVEL% neq 0 goto venv_failed
if not exist "%VENV_PYTHON%" goto venv_failed
goto install

:venv_failed
echo installboto: venv failed (see above); remove "%VENV%" if it exists and run this again>&2
exit /b 1

:install
set "CONSTRAINTS="
if exist tests\constraints.txt set "CONSTRAINTS=-c tests\constraints.txt"
rem Without -I, pip would count packages on PYTHONPATH as installed.
"%VENV_PYTHON%" -I -m pip install --quiet --disable-pip-version-check -r requirements.txt %CONSTRAINTS% >"%VENV%\install.log" 2>&1
if %ERRORLEVEL% neq 0 goto pip_failed
"%VENV_PYTHON%" -I -c "import boto3, requests, dotenv" >>"%VENV%\install.log" 2>&1
if %ERRORLEVEL% neq 0 goto not_importable
set "DEMO="
if exist tests\sandbox.py set "DEMO=try the demo (.venv\Scripts\python.exe tests\sandbox.py), or "
echo Installed into .venv. Next: %DEMO%fill in config.ini.
exit /b 0

:pip_failed
type "%VENV%\install.log" >&2
echo installboto: pip failed (see above); fix it and run this again>&2
exit /b 1

:not_importable
echo installboto: pip succeeded, but the packages can't be imported (see %VENV%\install.log); if "%VENV_PYTHON% -m pip config list" shows target, prefix, root or dry-run, remove that setting, otherwise remove .venv; then run this again>&2
exit /b 1

:no_requirements
echo installboto: no requirements.txt in "%CD%"; run the installboto.bat next to export_csv.py, not a link to it>&2
exit /b 1

rem Succeeds if .venv can be created with this Python. pyenv-win's python is a batch file, hence "call".
:probe
call "%PY%" %PY_OPTION% -E -c "import sys" >nul 2>&1
if %ERRORLEVEL% neq 0 exit /b 1
call "%PY%" %PY_OPTION% -E -c "import sys; sys.exit(sys.version_info < (3, 10))" >nul 2>&1
if %ERRORLEVEL% neq 0 goto probed_old
call "%PY%" %PY_OPTION% -I -c "import venv; from ensurepip import bootstrap" >nul 2>&1
if %ERRORLEVEL% neq 0 goto probed_without_venv
exit /b 0

:probed_old
set "OLD=%PY%"
exit /b 1

:probed_without_venv
set "WITHOUT_VENV=%PY%"
exit /b 1
